"""`datasets` and `collections`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mainspring_client.cli import erasures, imports, ingestions, recipes, reports, synthesis, versions
from mainspring_client.cli.options import DEFAULT_PROJECT, Data, Json, Limit, Project, group

if TYPE_CHECKING:
    from mainspring.data.v1 import dataset_pb2
    from mainspring_client.cli.output import Columns
    from mainspring_client.client import Mainspring

File = Annotated[Path, typer.Argument(help="The file.", exists=True, dir_okay=False)]
Column = Annotated[str, typer.Option(show_default=False)]

datasets = group("Files in, immutable dataset versions out, with an account of every row.")
datasets.command()(reports.report)
versions.register(datasets)
erasures.register(datasets)
imports.register(datasets)
ingestions.register(datasets)
recipes.register(datasets)
datasets.command()(synthesis.synthesize)
collections = group("Collections of documents that answers can cite.")


@datasets.command()
def upload(file: File, project: Project = DEFAULT_PROJECT, data: Data = None, json_: Json = False) -> None:
    """Stores a file and prints the artifact that names it."""
    from mainspring_client.cli.output import print_fields, print_json
    from mainspring_client.cli.run import with_client

    artifact = with_client(data, lambda mainspring: mainspring.data.upload(project, file))
    if json_:
        print_json(artifact)
    else:
        print_fields({"sha256": artifact.sha256, "bytes": artifact.size_bytes})


@datasets.command("list")
def list_datasets(
    project: Project = DEFAULT_PROJECT, limit: Limit = 50, data: Data = None, json_: Json = False
) -> None:
    """Lists datasets by name."""
    from mainspring_client.cli.output import print_json, print_table, short, when
    from mainspring_client.cli.run import collect, with_client

    found = with_client(data, lambda mainspring: collect(mainspring.data.datasets(project), limit))
    if json_:
        print_json(found)
        return
    print_table(
        found,
        {
            "dataset": lambda d: short(d.name),
            "newest version": lambda d: short(d.latest_version),
            "made": lambda d: when(d.create_time),
        },
        f"no datasets in {project}; 'mainspring datasets import FILE --dataset ID' makes one",
    )


@datasets.command()
def show(
    dataset: Annotated[str, typer.Argument(help="DATASET for all versions, DATASET/VERSION or DATASET@TAG for one.")],
    project: Project = DEFAULT_PROJECT,
    limit: Limit = 20,
    data: Data = None,
    json_: Json = False,
) -> None:
    """Shows a dataset's versions, or one version with its account of every row."""
    from mainspring_client.cli.output import print_json, print_table, short, when
    from mainspring_client.cli.run import collect, with_client
    from mainspring_client.resources import expand
    from mainspring_svckit.names import DatasetName

    if "@" in dataset or "/versions/" in dataset or (not dataset.startswith("projects/") and "/" in dataset):

        async def one(mainspring: Mainspring) -> dataset_pb2.DatasetVersion:
            return await mainspring.data.version(await versions.resolve(mainspring, project, dataset))

        version = with_client(data, one)
        if json_:
            print_json(version)
        else:
            print_version(version)
        return
    name = expand(DatasetName, project, dataset, "dataset")

    async def body(mainspring: Mainspring) -> tuple[dataset_pb2.Dataset, list[dataset_pb2.DatasetVersion]]:
        return await mainspring.data.dataset(name), await collect(mainspring.data.versions(name), limit)

    found, listed = with_client(data, body)
    if json_:
        print_json(listed)
        return
    tags = defaultdict[str, list[str]](list)
    for tag in found.tags:
        tags[tag.dataset_version].append(tag.tag)
    print_table(
        listed,
        {
            "version": lambda v: short(v.name),
            "rows in": lambda v: v.input_rows,
            "kept": lambda v: sum(split.rows for split in v.splits),
            "refused": lambda v: sum(refusal.rows for refusal in v.refusals),
            "digest": lambda v: v.root_sha256[:12],
            "tags": lambda v: "(deleted)" if v.HasField("deletion") else ", ".join(tags[v.name]),
            "published": lambda v: when(v.create_time),
        },
        f"no versions of {name}",
    )


@datasets.command()
def refused(
    version: versions.Version,
    project: Project = DEFAULT_PROJECT,
    limit: Limit = 50,
    data: Data = None,
    json_: Json = False,
) -> None:
    """Lists the input rows that a version refused, with the line, the reason and the step that refused it."""
    from mainspring.data.v1 import dataset_pb2
    from mainspring_client.cli.output import enum_name
    from mainspring_client.cli.run import collect, with_client

    reasons = dataset_pb2.RefusalReason.DESCRIPTOR
    columns: Columns = {
        "file": lambda row: row.source_index if row.source_index >= 0 else "erased",
        "line": lambda row: row.line,
        "step": _step,
        "reason": lambda row: enum_name(reasons, row.reason, "REFUSAL_REASON_"),
        "detail": lambda row: row.detail,
        "record": lambda row: row.excerpt[:80],
    }

    async def body(mainspring: Mainspring) -> list[dataset_pb2.RefusedRow]:
        return await collect(mainspring.data.refused_rows(await versions.resolve(mainspring, project, version)), limit)

    _print_rows(with_client(data, body), columns, "no row was refused", json_=json_)


@datasets.command()
def changed(
    version: versions.Version,
    project: Project = DEFAULT_PROJECT,
    limit: Limit = 50,
    data: Data = None,
    json_: Json = False,
) -> None:
    """Lists the rows of a version that the recipe's steps changed, with the line and the steps."""
    from mainspring_client.cli.run import collect, with_client

    columns: Columns = {
        "file": lambda row: row.source_index,
        "line": lambda row: row.line,
        "steps": lambda row: ", ".join(map(_step, row.steps)),
        "row": lambda row: row.row_id[:12],
    }

    async def body(mainspring: Mainspring) -> list[dataset_pb2.ChangedRow]:
        return await collect(mainspring.data.changed_rows(await versions.resolve(mainspring, project, version)), limit)

    empty = "no row was changed, or an older release made the version"
    _print_rows(with_client(data, body), columns, empty, json_=json_)


def _print_rows(found: Sequence[Any], columns: Columns, empty: str, *, json_: bool) -> None:
    from mainspring_client.cli.output import print_json, print_table

    if json_:
        print_json(found)
    else:
        print_table(found, columns, empty)


def _step(row: dataset_pb2.RefusedRow | dataset_pb2.ChangingStep) -> str:
    """A step with its place in the recipe, if it has one there."""
    return f"{row.step_number} {row.step}" if row.step_number else row.step


def print_version(version: dataset_pb2.DatasetVersion) -> None:
    """Prints a version with its account of every row."""
    from mainspring.data.v1 import dataset_pb2
    from mainspring_client.cli.output import enum_name, print_fields, short, when

    splits, reasons = dataset_pb2.Split.DESCRIPTOR, dataset_pb2.RefusalReason.DESCRIPTOR
    print_fields(
        {
            "version": version.name,
            "published": when(version.create_time),
            "rows in": version.input_rows,
            **{f"  {enum_name(splits, count.split, 'SPLIT_')}": count.rows for count in version.splits},
            **{
                f"  refused, {enum_name(reasons, count.reason, 'REFUSAL_REASON_').replace('_', ' ')}": count.rows
                for count in version.refusals
            },
            "digest": version.root_sha256,
            "recipe": short(version.ingestion_recipe_version or version.ingestion_recipe),
            "cycle": version.cycle,
            **({"supersedes": version.supersedes} if version.supersedes else {}),
            **_deletion(version),
        }
    )


def _deletion(version: dataset_pb2.DatasetVersion) -> dict[str, str]:
    from mainspring_client.cli.output import state_of, when

    if not version.HasField("deletion"):
        return {}
    gone = version.deletion
    left = f"; what is left of it is {gone.successor}" if gone.successor else ""
    return {"rows deleted": f"{when(gone.delete_time)}, {state_of(gone, 'cause').lower()}{left}"}


@collections.command()
def create(
    collection: Annotated[str, typer.Argument(help="Collection id.")],
    embedding_model: Annotated[str, typer.Option(help="MODEL/VERSION that makes the vectors.")],
    project: Project = DEFAULT_PROJECT,
    data: Data = None,
    json_: Json = False,
) -> None:
    """Makes an empty collection."""
    from mainspring_client.cli.output import print_json
    from mainspring_client.cli.run import with_client
    from mainspring_client.resources import expand
    from mainspring_svckit.names import CollectionName, ModelVersionName

    name = expand(CollectionName, project, collection, "collection")
    model = expand(ModelVersionName, project, embedding_model, "embedding-model")
    made = with_client(data, lambda mainspring: mainspring.embedding.create_collection(name, model))
    if json_:
        print_json(made)
    else:
        print(f"made {made.name}; 'mainspring collections index {collection} FILE' fills it")


@collections.command("list")
def list_collections(
    project: Project = DEFAULT_PROJECT, limit: Limit = 50, data: Data = None, json_: Json = False
) -> None:
    """Lists collections by name."""
    from mainspring_client.cli.output import print_json, print_table, short
    from mainspring_client.cli.run import collect, with_client

    found = with_client(data, lambda mainspring: collect(mainspring.embedding.collections(project), limit))
    if json_:
        print_json(found)
        return
    print_table(
        found,
        {
            "collection": lambda c: short(c.name),
            "model": lambda c: short(c.embedding_model_version),
            "documents": lambda c: c.document_count,
            "chunks": lambda c: c.chunk_count,
            "index": lambda c: c.active_index or "none yet",
        },
        f"no collections in {project}",
    )


@collections.command()
def index(
    collection: Annotated[str, typer.Argument(help="Collection id.")],
    documents: Annotated[
        Path, typer.Argument(help="JSONL file of documents {id, title, uri, text}.", exists=True, dir_okay=False)
    ],
    project: Project = DEFAULT_PROJECT,
    data: Data = None,
    json_: Json = False,
) -> None:
    """Builds a new index over documents; it takes the place of the one before when it is whole."""
    from mainspring.embedding.v1 import collection_pb2
    from mainspring_client.cli.output import Ticker, print_json, progress_text
    from mainspring_client.cli.run import with_client
    from mainspring_client.resources import expand
    from mainspring_svckit.errors import PreconditionFailed
    from mainspring_svckit.names import CollectionName

    name = expand(CollectionName, project, collection, "collection")

    async def body(mainspring: Mainspring) -> collection_pb2.IndexBuild:
        with Ticker(quiet=json_) as ticker:
            ticker.tell(f"uploading {documents.name}")
            build = await mainspring.embedding.index(name, await mainspring.data.upload(project, documents))
            async for update in mainspring.embedding.watch_build(build.name):
                ticker.tell(progress_text(update))
                build = update
        return build

    build = with_client(data, body)
    if build.state != collection_pb2.IndexBuild.STATE_SUCCEEDED:
        raise PreconditionFailed("INDEX_BUILD_FAILED", build.error.message)
    if json_:
        print_json(build)
    else:
        print(f"index {build.index} of {name} is searched from now on")


@collections.command()
def search(
    collection: Annotated[str, typer.Argument(help="Collection id.")],
    query: Annotated[str, typer.Argument(help="What to look for.")],
    top_k: Annotated[int, typer.Option(min=1, max=100, help="Most passages.")] = 5,
    project: Project = DEFAULT_PROJECT,
    data: Data = None,
    json_: Json = False,
) -> None:
    """Finds the passages that are nearest in meaning to a query."""
    from mainspring_client.cli.output import print_json, print_table
    from mainspring_client.cli.run import with_client
    from mainspring_client.resources import expand
    from mainspring_svckit.names import CollectionName

    name = expand(CollectionName, project, collection, "collection")
    found = with_client(data, lambda mainspring: mainspring.embedding.search(name, query, top_k))
    if json_:
        print_json(list(found))
        return
    print_table(
        found,
        {
            "score": lambda p: f"{p.score:.3f}",
            "document": lambda p: p.document_id,
            "title": lambda p: p.title,
            "text": lambda p: p.text[:300],
        },
        "nothing was found",
    )
