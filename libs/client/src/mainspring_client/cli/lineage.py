"""`lineage`: what was made from what."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Annotated

import typer

from mainspring_client.cli.options import DEFAULT_PROJECT, Data, Json, Project

if TYPE_CHECKING:
    from mainspring.registry.v1 import lineage_pb2
    from mainspring.registry.v1 import registry_service_pb2 as pb
    from mainspring_client.client import Mainspring

_ORIGINS = ("/datasets/", "/sources/", "/ingestions/", "/ingestionRecipes/", "/tuningRecipes/", "/modelImports/")


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(lineage)


def lineage(
    name: Annotated[
        str,
        typer.Argument(
            help="MODEL (its champion), MODEL/VERSION, MODEL@ALIAS, or the whole name of an answer, release, run,"
            " recipe, dataset version, source, ingestion or import."
        ),
    ],
    down: Annotated[
        bool | None,
        typer.Option(
            "--down/--up",
            help="Walk to what was made from it, or to what it was made from. Default: down from data, recipes and"
            " imports, up from the rest.",
        ),
    ] = None,
    rows: Annotated[
        int,
        typer.Option(min=0, max=500, help="Show so many rows of the data, and its sources. For contributors."),
    ] = 0,
    rows_of: Annotated[
        str,
        typer.Option(
            help="DATASET/VERSION or DATASET@TAG on the walk whose rows are shown. Default: the three nearest."
        ),
    ] = "",
    rows_token: Annotated[str, typer.Option(help="Token that the page of rows before ended with.")] = "",
    project: Project = DEFAULT_PROJECT,
    data: Data = None,
    json_: Json = False,
) -> None:
    """Shows what something was made from: from an answer back to the data, its sources and rows, or from data to every
    model and release. From a row or a person forward: 'mainspring datasets who-saw'.
    """
    from mainspring.registry.v1 import lineage_pb2
    from mainspring_client.cli.output import print_json
    from mainspring_client.cli.run import with_client
    from mainspring_client.cli.versions import resolve
    from mainspring_client.resources import expand_model
    from mainspring_svckit.names import ModelName

    begin = expand_model(project, name, "name")
    if ModelName.matches(begin):
        begin += "@champion"
    downstream = any(part in begin for part in _ORIGINS) if down is None else down

    async def body(mainspring: Mainspring) -> pb.GetLineageResponse:
        wanted = None
        if rows or rows_of or rows_token:
            version = await resolve(mainspring, project, rows_of) if rows_of else ""
            wanted = lineage_pb2.LineageRows(dataset_version=version, page_size=rows, page_token=rows_token)
        return await mainspring.registry.lineage(begin, downstream=downstream, rows=wanted)

    found = with_client(data, body)
    if json_:
        print_json(found)
    else:
        print_walk(found, downstream=downstream)
        for shown in found.data:
            _print_data(shown)


def _print_data(shown: lineage_pb2.LineageData) -> None:
    """What a dataset version was read from, and a page of its rows."""
    from mainspring.data.v1 import dataset_pb2
    from mainspring_client.cli.output import enum_name, print_table, short

    print(f"\n{short(shown.dataset_version)} was read from")
    print_table(
        shown.sources,
        {
            "source": lambda s: s.name.rsplit("/", 1)[-1][:12],
            "file": lambda s: s.filename,
            "type": lambda s: s.media_type,
            "bytes": lambda s: s.size_bytes,
        },
        "not known",
    )
    if shown.HasField("error"):
        print(f"no rows: {shown.error.message}")
        return
    print_table(
        shown.rows,
        {
            "row": lambda r: r.row_id[:12],
            "split": lambda r: enum_name(dataset_pb2.Split.DESCRIPTOR, r.split, "SPLIT_").lower(),
            "from": lambda r: f"{r.source.rsplit('/', 1)[-1][:12]}:{r.line}",
            "ends with": lambda r: r.messages[-1].content[:60] if r.messages else "",
        },
        "no rows",
    )
    if shown.next_page_token:
        print(f"more: --rows-of {short(shown.dataset_version)} --rows-token {shown.next_page_token}")


def print_walk(found: pb.GetLineageResponse | lineage_pb2.DataTrace, *, downstream: bool) -> None:
    """A line for each node, with what ties it to those that are nearer."""
    from mainspring.registry.v1 import lineage_pb2
    from mainspring_client.cli.output import enum_name, print_table

    hops = {node.name: node.hops for node in found.nodes}
    ties: dict[str, list[str]] = defaultdict(list)
    for edge in found.edges:
        near, far = (edge.source, edge.target) if downstream else (edge.target, edge.source)
        if hops[near] < hops[far]:
            relation = enum_name(lineage_pb2.LineageEdge.Relation.DESCRIPTOR, edge.relation, "RELATION_")
            words = relation.lower().replace("_", " ")
            shown = "/".join(near.split("/")[2:])
            ties[far].append(f"it {words} {shown}" if downstream else f"{shown} {words} it")
    print_table(
        found.nodes,
        {
            "hops": lambda n: n.hops,
            "name": lambda n: n.name,
            "because": lambda n: "\n".join(sorted(ties[n.name])),
        },
        "",
    )
    if found.truncated:
        print("there is more than this; begin at one of these names")
