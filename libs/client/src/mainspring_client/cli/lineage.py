"""`lineage`: what was made from what."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Annotated

import typer

from mainspring_client.cli.options import DEFAULT_PROJECT, Data, Json, Project

if TYPE_CHECKING:
    from mainspring.registry.v1 import registry_service_pb2 as pb

_ORIGINS = ("/datasets/", "/tuningRecipes/", "/modelImports/")


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(lineage)


def lineage(
    name: Annotated[
        str,
        typer.Argument(
            help="MODEL (its champion), MODEL/VERSION, MODEL@ALIAS, or the whole name of an answer, release, run,"
            " recipe, dataset version or import."
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
    project: Project = DEFAULT_PROJECT,
    data: Data = None,
    json_: Json = False,
) -> None:
    """Shows what something was made from: from an answer back to the data, or from data to every model and release."""
    from mainspring_client.cli.output import print_json
    from mainspring_client.cli.run import with_client
    from mainspring_client.resources import expand_model
    from mainspring_svckit.names import ModelName

    begin = expand_model(project, name, "name")
    if ModelName.matches(begin):
        begin += "@champion"
    downstream = any(part in begin for part in _ORIGINS) if down is None else down
    found = with_client(data, lambda mainspring: mainspring.registry.lineage(begin, downstream=downstream))
    if json_:
        print_json(found)
    else:
        _print(found, downstream=downstream)


def _print(found: pb.GetLineageResponse, *, downstream: bool) -> None:
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
