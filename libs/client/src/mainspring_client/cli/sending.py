"""What `datasets import` and `datasets preview` are given: found, stored, and looked into."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from mainspring.common.v1 import artifact_pb2
    from mainspring.data.v1 import recipe_pb2, source_pb2, source_service_pb2
    from mainspring_client.cli.output import Ticker
    from mainspring_client.client import Mainspring
    from mainspring_client.collecting import LocalSource


@dataclass(frozen=True)
class Sent:
    """A source that is stored, and what it would give."""

    name: str
    artifact: artifact_pb2.Artifact
    preview: source_pb2.SourcePreview
    origin: str = ""


@dataclass(frozen=True)
class Places:
    """What a person named: files and URIs, a query, judged answers."""

    files: list[str]
    query: str
    judged: source_service_pb2.FeedbackQuery | None


def judged(
    project: str, text: str, release: str, since: datetime | None, until: datetime | None
) -> source_service_pb2.FeedbackQuery | None:
    """Which judged answers a person means; None when none."""
    from mainspring.data.v1 import source_service_pb2
    from mainspring_client.resources import expand
    from mainspring_svckit.names import ModelName, ModelVersionName, ReleaseName

    if not text:
        if release or since or until:
            raise typer.BadParameter("--release, --since and --until go with --from-feedback")
        return None
    wanted = source_service_pb2.FeedbackQuery()
    if "/" in text:
        wanted.model_version = expand(ModelVersionName, project, text, "from-feedback")
    elif text != "all":
        wanted.model = expand(ModelName, project, text, "from-feedback")
    if release:
        if not wanted.model:
            raise typer.BadParameter("--release goes with --from-feedback MODEL")
        wanted.release = str(ReleaseName(project, text, release))
    for field, time in (("start_time", since), ("end_time", until)):
        if time is not None:
            getattr(wanted, field).FromDatetime(time.replace(tzinfo=time.tzinfo or UTC))
    return wanted


async def send(
    mainspring: Mainspring,
    project: str,
    places: Places,
    columns: recipe_pb2.ColumnMapping | None,
    records: int,
    stack: ExitStack,
    ticker: Ticker,
    *,
    of_recipe: bool = False,
) -> list[Sent]:
    """Uploads everything and looks into it.

    Args:
        mainspring: Where to.
        project: Whose.
        places: What.
        columns: Where the text is; None to go by the shape of each.
        records: Records to look at of each.
        stack: Ends what was opened.
        ticker: Hears what is done.
        of_recipe: The columns are those of a recipe that is there. What lacks them then keeps those of its own shape;
            documents always do.
    """
    from mainspring_client.collecting import collect

    sent: list[Sent] = []

    async def look(name: str, artifact: artifact_pb2.Artifact, origin: str = "") -> None:
        ticker.tell(f"looking into {name}")
        found = await _preview(mainspring, project, artifact, columns, records, of_recipe)
        ticker.keep(summary(name, found))
        sent.append(Sent(name, artifact, found, origin))

    here = [text for text in places.files if "://" not in text]
    for local in collect(here, stack) if here else ():
        size = local.path.stat().st_size

        def told(done: int, local: LocalSource = local, size: int = size) -> None:
            ticker.progress(f"uploading {local.name}", done, size)

        await look(local.name, await mainspring.data.upload(project, local.path, filename=local.name, on_sent=told))
    for uri in places.files:
        if "://" in uri:
            ticker.tell(f"the server fetches {uri}")
            async for fetched in mainspring.data.fetch(project, uri=uri):
                await look(fetched.artifact.filename, fetched.artifact, fetched.origin)
    if places.query:
        connection, _, sql = places.query.partition(":")
        if not (connection and sql):
            raise typer.BadParameter(f"{places.query!r} is not CONNECTION:SQL", param_hint="--query")
        async for fetched in mainspring.data.fetch(project, connection=connection, sql=sql):
            await look(fetched.artifact.filename, fetched.artifact, fetched.origin)
    if places.judged is not None:
        ticker.tell("the server collects judged answers")
        async for fetched in mainspring.data.fetch(project, feedback=places.judged):
            await look(fetched.artifact.filename, fetched.artifact, fetched.origin)
    if not sent:
        raise typer.BadParameter("name files, URIs, a --query or --from-feedback")
    return sent


async def _preview(
    mainspring: Mainspring,
    project: str,
    artifact: artifact_pb2.Artifact,
    columns: recipe_pb2.ColumnMapping | None,
    records: int,
    of_recipe: bool,
) -> source_pb2.SourcePreview:
    from mainspring.data.v1 import source_pb2
    from mainspring_svckit.errors import InvalidInput

    async def look(by: recipe_pb2.ColumnMapping | None) -> source_pb2.SourcePreview:
        return await mainspring.data.preview(project, artifact, columns=by, records=records)

    try:
        found = await look(columns)
    except InvalidInput as err:
        if not of_recipe or err.reason != "SOURCE_LACKS_COLUMN":
            raise
        own = await look(None)
        if not own.HasField("columns"):
            raise
        return own
    if columns is None:
        return found
    wanted = {columns.input_column, columns.target_column, columns.messages_column, columns.text_column} - {""}
    if wanted <= set(found.column_names) or not (of_recipe or found.shape == source_pb2.RECORD_SHAPE_CORPUS):
        return found
    own = await look(None)
    return own if own.HasField("columns") else found


async def embedding_version(mainspring: Mainspring, project: str, text: str) -> str:
    """The embedding model's version that a person named as MODEL (its newest), MODEL/VERSION or MODEL@ALIAS.

    What is none is told here: a service would wait for it to be loaded.

    Raises:
        NotFound: There is no such version.
        PreconditionFailed: NOT_AN_EMBEDDING_MODEL.
    """
    from mainspring.registry.v1 import model_pb2
    from mainspring_client.resources import expand_model
    from mainspring_svckit.errors import PreconditionFailed

    name = expand_model(project, text, "embedding-model")
    if "/versions/" not in name and "@" not in name:
        name = (await mainspring.registry.model(name)).latest_version
    found = await mainspring.registry.version(name)
    if found.kind != model_pb2.MODEL_KIND_EMBEDDING:
        message = f"{found.name} makes no vectors; 'mainspring models list' shows which models are for embedding"
        raise PreconditionFailed("NOT_AN_EMBEDDING_MODEL", message)
    return found.name


def names(found: source_pb2.SourcePreview) -> tuple[str, str, str]:
    """Format, shape and columns in words."""
    from mainspring.data.v1 import source_pb2
    from mainspring_client.cli.output import enum_name, state_of

    shape = enum_name(source_pb2.RecordShape.DESCRIPTOR, found.shape, "RECORD_SHAPE_").replace("_", " ")
    columns = ", ".join(
        f"{field.name.removesuffix('_column')} = {value}" for field, value in found.columns.ListFields()
    )
    return state_of(found, "format").lower(), shape if found.shape else "no usual shape", columns or "not known"


def summary(name: str, found: source_pb2.SourcePreview) -> str:
    file_format, shape, columns = names(found)
    return f"{name}: {file_format}, {shape}; columns: {columns}"
