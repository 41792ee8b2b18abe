"""`datasets import` and `datasets preview`."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mainspring_client.cli.options import DEFAULT_PROJECT, Data, Json, Project

if TYPE_CHECKING:
    from mainspring.data.v1 import dataset_pb2, ingestion_pb2, recipe_pb2, source_pb2
    from mainspring_client.cli.output import Ticker
    from mainspring_client.cli.sending import Sent
    from mainspring_client.client import Mainspring

Files = Annotated[
    list[str] | None,
    typer.Argument(
        help="Files, folders, patterns, or URIs that the server may fetch (s3://, gs://, az://, https://): JSON Lines,"
        " JSON, CSV, TSV, Parquet, Arrow, text, Markdown, HTML, PDF, DOCX, Python code, and gzip, Zstandard or ZIP of"
        " these."
    ),
]
FromQuery = Annotated[
    str, typer.Option(help="CONNECTION:SQL, a query of a Postgres database that the server's settings name.")
]
FromFeedback = Annotated[
    str,
    typer.Option(
        help="MODEL, MODEL/VERSION, or 'all': the project's answers that people judged, with corrections, preferences"
        " and thumbs. Answers whose content is not kept, or is erased, are not among them."
    ),
]
Release = Annotated[str, typer.Option(help="Of --from-feedback MODEL only answers under this release (its number).")]
Since = Annotated[datetime | None, typer.Option(help="Of --from-feedback only answers since this time (UTC).")]
Until = Annotated[datetime | None, typer.Option(help="Of --from-feedback only answers before this time (UTC).")]
InputColumn = Annotated[str, typer.Option(help="Column with the text, or messages, that the model is given.")]
TargetColumn = Annotated[str, typer.Option(help="Column with what it should answer.")]
MessagesColumn = Annotated[str, typer.Option(help="Column with a list of chat messages, instead of the two.")]
TextColumn = Annotated[str, typer.Option(help="Column with text of a plain corpus, instead of these.")]
RejectedColumn = Annotated[str, typer.Option(help="Column with a worse answer to the same prompt.")]
DesirableColumn = Annotated[str, typer.Option(help="Column with a thumb on the answer.")]
GroupColumn = Annotated[str, typer.Option(help="Column whose value keeps rows in one split.")]


class Strata(StrEnum):
    """What is shared out by itself."""

    LABEL = "label"
    SOURCE = "source"


def register(datasets: typer.Typer) -> None:
    """Adds the commands to the group."""
    datasets.command("import")(import_)
    datasets.command()(preview)


def preview(
    files: Files = None,
    query: FromQuery = "",
    from_feedback: FromFeedback = "",
    release: Release = "",
    since: Since = None,
    until: Until = None,
    input_column: InputColumn = "",
    target_column: TargetColumn = "",
    messages_column: MessagesColumn = "",
    text_column: TextColumn = "",
    rejected_column: RejectedColumn = "",
    desirable_column: DesirableColumn = "",
    records: Annotated[int, typer.Option(min=1, max=100, help="Records to show of each file.")] = 3,
    project: Project = DEFAULT_PROJECT,
    data: Data = None,
    json_: Json = False,
) -> None:
    """Shows what files would give: format, shape, columns, first rows, and what would be refused. Imports nothing."""
    from mainspring_client.cli.output import Ticker, print_json
    from mainspring_client.cli.run import with_client
    from mainspring_client.cli.sending import Places, judged, send

    columns = _columns(locals())
    places = Places(files or [], query, judged(project, from_feedback, release, since, until))

    async def body(mainspring: Mainspring) -> list[Sent]:
        with ExitStack() as stack, Ticker(quiet=json_) as ticker:
            return await send(mainspring, project, places, columns, records, stack, ticker)

    sent = with_client(data, body)
    if json_:
        print_json([{"file": one.name, "artifact": one.artifact, **_fields(one.preview)} for one in sent])
        return
    for one in sent:
        _print_preview(one)


def import_(
    dataset: Annotated[str, typer.Option(help="Dataset id; the ingestion recipe is called the same.")],
    files: Files = None,
    query: FromQuery = "",
    from_feedback: FromFeedback = "",
    release: Release = "",
    since: Since = None,
    until: Until = None,
    input_column: InputColumn = "",
    target_column: TargetColumn = "",
    messages_column: MessagesColumn = "",
    text_column: TextColumn = "",
    rejected_column: RejectedColumn = "",
    desirable_column: DesirableColumn = "",
    group_column: GroupColumn = "",
    prompt_template: Annotated[str, typer.Option(help="User message, with {input} where the input goes.")] = "",
    system_prompt: Annotated[str, typer.Option(help="System message before each example.")] = "",
    clean: Annotated[
        bool,
        typer.Option(
            "--clean", help="Repair encodings, strip markup, refuse junk, mask personal data, drop near duplicates."
        ),
    ] = False,
    language: Annotated[
        list[str] | None, typer.Option(help="Language to keep, as a two-letter code; may come several times.")
    ] = None,
    keep_out: Annotated[
        list[str] | None,
        typer.Option(
            help="Evaluation set whose rows are refused: DATASET/VERSION or DATASET@TAG (its test split),"
            " DATASET/VERSION:SPLIT, suite:SUITE/VERSION, or a file; may come several times."
        ),
    ] = None,
    reference: Annotated[
        str,
        typer.Option(
            help="Examples of what the data is for, named as for --keep-out; the report says how near the rows come to"
            " them [default: the first of --keep-out]."
        ),
    ] = "",
    stratify: Annotated[
        Strata | None, typer.Option(help="Share out the rows of each answer, or of each source, by themselves.")
    ] = None,
    count_tokens: Annotated[
        str, typer.Option(help="MODEL/VERSION whose tokenizer counts the rows' tokens in the report.")
    ] = "",
    embedding_model: Annotated[
        str, typer.Option(help="MODEL/VERSION whose vectors the report's diversity follows from [default: lexical].")
    ] = "",
    project: Project = DEFAULT_PROJECT,
    data: Data = None,
    json_: Json = False,
) -> None:
    """Uploads files, writes the recipe that the options describe, and makes a dataset version of them.

    Without column options the recipe that is there already is used, cleaning included. Where there is none, or with
    options that make a new one, the columns are those that the shape of the records says; 'mainspring datasets preview'
    shows them before. 'mainspring apply' writes recipes with any steps.
    """
    from mainspring_client.cleaning import DEFAULT_SPLIT, steps_of
    from mainspring_client.cli.data import print_version
    from mainspring_client.cli.output import Ticker, print_json
    from mainspring_client.cli.run import with_client
    from mainspring_client.cli.sending import Places, embedding_version, judged, send

    columns = _columns(locals())
    places = Places(files or [], query, judged(project, from_feedback, release, since, until))
    texts = {"prompt_template": prompt_template, "system_prompt": system_prompt}
    chosen = (clean, language, keep_out, reference, *texts.values(), stratify, count_tokens, embedding_model)
    fresh = columns is not None or any(chosen)

    async def body(mainspring: Mainspring) -> dataset_pb2.DatasetVersion:
        vectors_of = await embedding_version(mainspring, project, embedding_model) if embedding_model else ""
        with ExitStack() as stack, Ticker(quiet=json_) as ticker:
            known = None if fresh else await _recipe(mainspring, project, dataset)
            asked = columns if known is None else known.columns
            sent = await send(mainspring, project, places, asked, 1, stack, ticker, of_recipe=known is not None)
            if known is None:
                held_out = [await _held_out(mainspring, project, text) for text in keep_out or ()]
                recipe: dict[str, Any] = {**texts, "report_embedding_model_version": vectors_of}
                if reference:
                    recipe["reference"] = await _held_out(mainspring, project, reference)
                if stratify is not None:
                    recipe["split"] = {**DEFAULT_SPLIT, "stratify_by": f"SPLIT_STRATA_{stratify.upper()}"}
                steps = steps_of(clean=clean, languages=language or (), keep_out=held_out, tokenizer_of=count_tokens)
                await _write_recipe(mainspring, project, dataset, sent, {**recipe, "steps": steps}, ticker)
            usual = sent[0].preview.columns if known is None else known.columns
            return await _ingest(mainspring, project, dataset, sent, usual, ticker)

    version = with_client(data, body)
    if json_:
        print_json(version)
    else:
        print_version(version)


def _columns(options: dict[str, Any]) -> recipe_pb2.ColumnMapping | None:
    from mainspring.data.v1 import recipe_pb2

    named = {key: value for key, value in options.items() if key.endswith("_column") and value}
    return recipe_pb2.ColumnMapping(**named) if named else None


async def _recipe(mainspring: Mainspring, project: str, dataset: str) -> recipe_pb2.IngestionRecipe | None:
    from mainspring_client.resources import expand
    from mainspring_svckit.errors import NotFound
    from mainspring_svckit.names import IngestionRecipeName

    try:
        return await mainspring.data.recipe(expand(IngestionRecipeName, project, dataset, "dataset"))
    except NotFound:
        return None


async def _write_recipe(
    mainspring: Mainspring, project: str, dataset: str, sent: list[Sent], recipe: dict[str, Any], ticker: Ticker
) -> None:
    from google.protobuf import json_format

    from mainspring_client.configuration import Configuration
    from mainspring_svckit.errors import InvalidInput

    for one in sent:
        if not one.preview.HasField("columns"):
            names = ", ".join(one.preview.column_names[:20]) or "none"
            message = (
                f"{one.name}: its records have no usual shape (columns: {names}); say where the text is with"
                " --input-column and --target-column, --messages-column, or --text-column"
            )
            raise InvalidInput(message, reason="COLUMNS_UNKNOWN")
    columns = json_format.MessageToDict(sent[0].preview.columns, preserving_proto_field_name=True)
    section = {"id": dataset, "dataset": dataset, "columns": columns, **recipe}
    changes = await mainspring.apply(Configuration.parse({"project": project, "ingestion_recipe": section}))
    for change in changes:
        ticker.keep(f"{change.outcome}: {change.name}")


async def _ingest(
    mainspring: Mainspring,
    project: str,
    dataset: str,
    sent: list[Sent],
    usual: recipe_pb2.ColumnMapping,
    ticker: Ticker,
) -> dataset_pb2.DatasetVersion:
    from mainspring.data.v1 import ingestion_pb2
    from mainspring_client.cli.output import progress_text, short
    from mainspring_client.resources import expand
    from mainspring_svckit.names import IngestionRecipeName

    sources = [
        ingestion_pb2.Source(
            artifact=one.artifact,
            format=one.preview.format,
            origin=one.origin,
            columns=one.preview.columns if one.preview.columns != usual else None,
        )
        for one in sent
    ]
    ingestion = await mainspring.data.ingest(expand(IngestionRecipeName, project, dataset, "dataset"), sources)
    try:
        async for update in mainspring.data.watch_ingestion(ingestion.name):
            progress = update.progress
            ticker.progress(progress_text(update), progress.done, progress.total)
            ingestion = update
    except asyncio.CancelledError:
        ticker.keep(f"it goes on; 'mainspring datasets cancel {short(ingestion.name)}' ends it")
        raise
    _require_success(ingestion)
    return await mainspring.data.version(ingestion.dataset_version)


def _require_success(ingestion: ingestion_pb2.Ingestion) -> None:
    from mainspring.data.v1 import ingestion_pb2
    from mainspring_client.cli.output import state_of
    from mainspring_svckit.errors import PreconditionFailed
    from mainspring_svckit.status import error_info

    if ingestion.state != ingestion_pb2.Ingestion.STATE_SUCCEEDED:
        reason = error_info(ingestion.error).reason or f"INGESTION_{state_of(ingestion)}"
        raise PreconditionFailed(reason, ingestion.error.message or f"{ingestion.name} was cancelled")


async def _held_out(mainspring: Mainspring, project: str, text: str) -> dict[str, Any]:
    """An evaluation set that a person named, as a step takes it."""
    from google.protobuf import json_format

    from mainspring_client.cli.versions import resolve

    if not Path(text).is_file():
        if text.startswith("suite:"):
            return {"evaluation_suite_version": text.removeprefix("suite:")}
        version, _, splits = text.partition(":")
        named = [f"SPLIT_{split.upper()}" for split in splits.split(",") if split]
        name = await resolve(mainspring, project, version)
        return {"dataset_version": name, **({"splits": named} if named else {})}
    artifact = await mainspring.data.upload(project, Path(text))
    return {"file": json_format.MessageToDict(artifact, preserving_proto_field_name=True)}


def _fields(found: source_pb2.SourcePreview) -> dict[str, Any]:
    from mainspring_client.cli.output import to_dict

    return to_dict(found)


def _print_preview(one: Sent) -> None:
    from mainspring.data.v1 import dataset_pb2
    from mainspring_client.cli.output import enum_name, print_fields
    from mainspring_client.cli.sending import names

    found, reasons = one.preview, dataset_pb2.RefusalReason.DESCRIPTOR
    file_format, shape, columns = names(found)
    refused = {
        f"  {enum_name(reasons, count.reason, 'REFUSAL_REASON_').replace('_', ' ')}": count.rows
        for count in found.refusals
    }
    print_fields(
        {
            "file": one.name,
            "format": file_format,
            "shape": shape,
            "columns": columns,
            "it has": ", ".join(found.column_names),
            "looked at": f"{found.read_records} records" + (", all there are" if found.whole else ""),
            "would be refused": sum(refused.values()),
            **refused,
        }
    )
    for record in found.records:
        print_fields({f"line {record.line}": record.excerpt[:300] if not record.messages else ""})
        for message in record.messages:
            role = type(message).Role.Name(message.role).removeprefix("ROLE_").lower()
            print_fields({f"  {role}": message.content[:300]})
        if record.rejected:
            print_fields({"  rejected": record.rejected[:300]})
        if record.HasField("desirable"):
            print_fields({"  thumb": "up" if record.desirable else "down"})
    for row in found.refused[:5]:
        print_fields({f"refused line {row.line}": row.detail})
