"""The graph of what was made from what: one contract for the fake and for Postgres, and what the catalogue puts in."""

import random
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import pytest
from sqlalchemy import text

from mainspring_registry.adapters.lineage import PostgresLineage
from mainspring_registry.application.ports import LineageGraph
from mainspring_registry.domain.data import DatasetFacts, DataSource
from mainspring_registry.domain.lineage import (
    Direction,
    Edge,
    Node,
    Relation,
    Walk,
    edges_of_dataset,
    edges_of_evaluation,
)
from mainspring_svckit.database import Database
from mainspring_testkit.fakes import FakeTransactions
from mainspring_testkit.plugin import DatabaseFor

UP, DOWN = Direction.UPSTREAM, Direction.DOWNSTREAM
DATA = "projects/p/datasets/d/versions/1"
SOURCE, INGESTION = f"projects/p/sources/{'a' * 64}", "projects/p/ingestions/i"
RUN = "projects/p/trainingRuns/r"
BASE = "projects/p/models/base/versions/1"
V1, V2 = "projects/p/models/m/versions/1", "projects/p/models/m/versions/2"
EVAL = "projects/p/evaluationRuns/e2"
DECISION, RELEASE = "projects/p/models/m/gateDecisions/1", "projects/p/models/m/releases/1"
ANSWER = "projects/p/answers/a"
# The second version, measured against the first on the data that the first learned from, was released and answered.
TURN = (
    Edge(DATA, RUN, Relation.TRAINED_ON),
    Edge(RUN, V1, Relation.PRODUCED_BY),
    Edge(BASE, V1, Relation.BASED_ON),
    Edge(BASE, V2, Relation.BASED_ON),
    *edges_of_evaluation(EVAL, V2, V1, DATA),
    Edge(EVAL, DECISION, Relation.DECIDED_ON),
    Edge(DECISION, RELEASE, Relation.ALLOWED_BY),
    Edge(V2, RELEASE, Relation.RELEASES),
    Edge(RELEASE, ANSWER, Relation.SERVED_BY),
    Edge(V2, ANSWER, Relation.ANSWERED_BY),
)


class InTransactions:
    """A graph that makes a transaction for each call."""

    def __init__(self, graph: LineageGraph, transaction: Any) -> None:
        self._graph, self._transaction = graph, transaction

    async def add(self, edges: Sequence[Edge]) -> None:
        async with self._transaction():
            await self._graph.add(edges)

    async def walk(self, names: Sequence[str], direction: Direction, *, max_hops: int, max_nodes: int) -> Walk:
        async with self._transaction():
            return await self._graph.walk(names, direction, max_hops=max_hops, max_nodes=max_nodes)

    async def knows(self, name: str) -> bool:
        async with self._transaction():
            return await self._graph.knows(name)


class GraphContract:
    """What every `LineageGraph` does; subclasses give the fixture `graph`."""

    @pytest.fixture
    async def opened(self, graph: LineageGraph, transaction: Any) -> LineageGraph:
        inside = InTransactions(graph, transaction)
        await inside.add(TURN)
        return inside

    async def names(self, graph: LineageGraph, name: str, direction: Direction, **limits: int) -> set[str]:
        found = await graph.walk([name], direction, max_hops=limits.get("hops", 20), max_nodes=limits.get("nodes", 100))
        return {node.name for node in found.nodes}

    async def test_an_answer_leads_back_to_everything_it_rests_on(self, opened: LineageGraph) -> None:
        found = await opened.walk([ANSWER], UP, max_hops=20, max_nodes=100)
        assert found.nodes[:3] == (Node(ANSWER, 0), Node(RELEASE, 1), Node(V2, 1))
        assert {node.name for node in found.nodes} == {ANSWER, RELEASE, V2, BASE, DECISION, EVAL, V1, DATA}
        assert not found.truncated
        assert Edge(V1, EVAL, Relation.COMPARED_WITH) in found.edges

    async def test_what_it_was_compared_with_is_shown_but_not_what_that_was_made_from(
        self, opened: LineageGraph
    ) -> None:
        assert RUN not in await self.names(opened, RELEASE, UP)
        assert await self.names(opened, V1, UP) == {V1, RUN, DATA, BASE}

    async def test_data_leads_to_what_learned_from_it_and_not_to_what_was_only_measured_on_it(
        self, opened: LineageGraph
    ) -> None:
        assert await self.names(opened, DATA, DOWN) == {DATA, RUN, V1, EVAL}
        assert await self.names(opened, BASE, DOWN) == {BASE, V1, V2, EVAL, DECISION, RELEASE}

    async def test_answers_are_not_walked_down_to(self, opened: LineageGraph) -> None:
        assert ANSWER not in await self.names(opened, V2, DOWN)

    async def test_the_same_edge_again_changes_nothing(self, opened: LineageGraph) -> None:
        before = await opened.walk([ANSWER], UP, max_hops=20, max_nodes=100)
        await opened.add(TURN)
        assert await opened.walk([ANSWER], UP, max_hops=20, max_nodes=100) == before

    async def test_limits_are_kept_and_told(self, opened: LineageGraph) -> None:
        near = await opened.walk([ANSWER], UP, max_hops=1, max_nodes=100)
        assert ({node.hops for node in near.nodes}, near.truncated) == ({0, 1}, True)
        few = await opened.walk([ANSWER], UP, max_hops=20, max_nodes=3)
        assert (len(few.nodes), few.truncated) == (3, True)

    async def test_a3_another_projects_edges_are_not_walked(self, opened: LineageGraph) -> None:
        theirs = "projects/q/models/m/versions/1"
        await opened.add([Edge(BASE, theirs, Relation.BASED_ON)])
        assert theirs not in await self.names(opened, BASE, DOWN)
        assert await self.names(opened, theirs, UP) == {theirs, BASE}

    async def test_what_is_not_known_is_told_apart(self, opened: LineageGraph) -> None:
        assert await opened.knows(DATA)
        assert await opened.knows(ANSWER)
        assert not await opened.knows("projects/p/answers/b")

    async def test_a_walk_begins_at_several_names(self, opened: LineageGraph) -> None:
        found = await opened.walk([BASE, DATA], DOWN, max_hops=20, max_nodes=100)
        apart = [await self.names(opened, name, DOWN) for name in (BASE, DATA)]
        assert {node.name for node in found.nodes} == apart[0] | apart[1]
        assert found.nodes[:2] == (Node(DATA, 0), Node(BASE, 0))

    async def test_data_leads_back_to_its_sources_and_what_an_erasure_left_is_shown_only(
        self, opened: LineageGraph
    ) -> None:
        left = "projects/p/datasets/d/versions/2"
        await opened.add(edges_of_dataset(DatasetFacts(DATA, INGESTION, "", (DataSource(SOURCE),))))
        await opened.add(edges_of_dataset(DatasetFacts(left, INGESTION, "", (), supersedes=DATA)))
        assert {SOURCE, INGESTION} <= await self.names(opened, V1, UP)
        assert await self.names(opened, SOURCE, DOWN) == {SOURCE, DATA, left, RUN, V1, EVAL}
        assert await self.names(opened, left, UP) == {left, INGESTION, DATA}

    async def test_a_ring_ends(self, opened: LineageGraph) -> None:
        await opened.add([Edge(V1, RUN, Relation.CONTINUED_FROM)])
        assert await self.names(opened, V1, UP) == {V1, RUN, DATA, BASE}


class TestFakeGraph(GraphContract):
    @pytest.fixture
    def graph(self, fake_lineage: LineageGraph) -> LineageGraph:
        return fake_lineage

    @pytest.fixture
    def transaction(self) -> Any:
        return FakeTransactions().transaction


class TestPostgresGraph(GraphContract):
    @pytest.fixture
    async def database(self, database_for: DatabaseFor) -> Database:
        return await database_for("mainspring_registry")

    @pytest.fixture
    def graph(self, database: Database) -> LineageGraph:
        return PostgresLineage(database)

    @pytest.fixture
    def transaction(self, database: Database) -> Any:
        return database.transaction

    async def test_it_walks_any_graph_as_the_fake_does(self, database: Database, fake_lineage: LineageGraph) -> None:
        graph, dice = PostgresLineage(database), random.Random(7)
        names = [f"projects/p/answers/n{number}" for number in range(25)]
        pairs = {(a, b) for a, b in ((dice.randrange(25), dice.randrange(25)) for _ in range(60)) if a < b}
        edges = [Edge(names[a], names[b], dice.choice(list(Relation))) for a, b in sorted(pairs)]
        async with database.transaction():
            await graph.add(edges)
            await fake_lineage.add(edges)
            for name in names:
                for direction in Direction:
                    wanted = await fake_lineage.walk([name], direction, max_hops=5, max_nodes=20)
                    assert await graph.walk([name], direction, max_hops=5, max_nodes=20) == wanted, name


async def test_the_migration_draws_what_the_catalogue_knew_before(database_for: DatabaseFor) -> None:
    """The statements of revision 0002, on documents as revision 0001 kept them."""
    revision = import_module("mainspring_registry.migrations.0002_lineage")
    database = await database_for("mainspring_registry")
    documents = {
        ("model_version", BASE): '{"lineage": {"model_import": "projects/p/modelImports/i"}, "base_model_version": ""}',
        ("model_version", V1): f'{{"lineage": {{"training_run": "{RUN}", "dataset_version": "{DATA}"}},'
        f' "base_model_version": "{BASE}"}}',
        ("gate_decision", DECISION): f'{{"model_version": "{V1}", "evidence": {{"evaluation_run": "{EVAL}",'
        f' "baseline": "{BASE}"}}}}',
        ("release", RELEASE): f'{{"model_version": "{V1}", "gate_decision": "{DECISION}"}}',
    }
    async with database.transaction() as connection:
        for (table, name), body in documents.items():
            columns, values = "(name, parent, sort_key, body)", "(:name, '', :name, cast(:body AS jsonb))"
            statement = f"INSERT INTO {table} {columns} VALUES {values}"
            await connection.execute(text(statement), {"name": name, "body": body})
        for statement in revision.fill():
            await connection.execute(text(statement))
        found = await PostgresLineage(database).walk([RELEASE], UP, max_hops=20, max_nodes=100)
    names = {node.name for node in found.nodes}
    assert names == {RELEASE, DECISION, V1, EVAL, RUN, DATA, BASE, "projects/p/modelImports/i"}
