"""What several test files of the registry share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from mainspring_registry.domain.lineage import NEVER_DOWNSTREAM, SHOWN_ONLY, Direction, Edge, Node, Walk
from mainspring_testkit.servers import PostgresServer
from mainspring_testkit.service import Surroundings

from .processes import Registry, start_registry
from .world import World, make_world


class FakeLineage:
    """`LineageGraph` in memory, walked breadth first."""

    def __init__(self) -> None:
        self.edges: dict[Edge, None] = {}

    async def add(self, edges: Sequence[Edge]) -> None:
        self.edges |= dict.fromkeys(edges)

    async def walk(self, names: Sequence[str], direction: Direction, *, max_hops: int, max_nodes: int) -> Walk:
        upstream = direction is Direction.UPSTREAM
        edges = [edge for edge in self.edges if edge.target.split("/")[1] == names[0].split("/")[1]]
        hops, goes_on, level = dict.fromkeys(names, 0), set(names), set(names)
        for distance in range(1, len(edges) + 2):
            reached: dict[str, bool] = {}
            for edge in edges:
                here, there = (edge.target, edge.source) if upstream else (edge.source, edge.target)
                if here in level and (upstream or edge.relation not in NEVER_DOWNSTREAM):
                    reached[there] = reached.get(there, False) or edge.relation not in SHOWN_ONLY
            for there in reached:
                hops.setdefault(there, distance)
            # A node that was shown only is gone on from when another way to it may go on.
            level = {there for there, further in reached.items() if further} - goes_on
            goes_on |= level
        found = sorted((Node(there, distance) for there, distance in hops.items()), key=lambda n: (n.hops, n.name))
        nodes = tuple(node for node in found if node.hops <= max_hops)[:max_nodes]
        shown = {node.name for node in nodes}
        between = [edge for edge in edges if {edge.source, edge.target} <= shown]
        order = sorted(between, key=lambda e: (e.target, e.source, e.relation.value))
        return Walk(nodes, tuple(order), truncated=len(nodes) < len(found))

    async def knows(self, name: str) -> bool:
        return any(name in (edge.source, edge.target) for edge in self.edges)


@pytest.fixture
def world(tmp_path: Path, fake_lineage: FakeLineage) -> World:
    return make_world(tmp_path, fake_lineage)


@pytest.fixture
async def registry(surroundings: Surroundings, postgres: PostgresServer, artifact_url: str, tmp_path: Path) -> Registry:
    return await start_registry(surroundings, postgres, artifact_url, tmp_path)


@pytest.fixture
def fake_lineage() -> FakeLineage:
    return FakeLineage()
