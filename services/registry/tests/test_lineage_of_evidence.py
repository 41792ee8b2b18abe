"""Judges, approvals and data of many sources in the graph: the use cases over fakes, the graph in Postgres."""

from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import Message
from sqlalchemy import text

from mainspring.events.v1.data_events_pb2 import DatasetVersionPublished
from mainspring.events.v1.evaluation_events_pb2 import EvaluationRunCompleted
from mainspring_registry.adapters.lineage import PostgresLineage
from mainspring_registry.application.cycles import Cycles
from mainspring_registry.application.lineage import Lineages
from mainspring_registry.domain.data import DatasetFacts, DataSource
from mainspring_registry.domain.lineage import Direction, Edge, Relation, Walk
from mainspring_registry.domain.policies import ApprovalRule, ApproverRole
from mainspring_registry.transport.events import Reactions
from mainspring_svckit.database import Database
from mainspring_svckit.errors import Unavailable
from mainspring_svckit.mapping import fidelity_to_proto, scorer_result_to_proto
from mainspring_testkit.plugin import DatabaseFor

from .fakes import FakeData
from .world import ADA, ANNA, BASE, BEN, MODEL, POLICY, SUITE, World, evidence, make_world

UP, DOWN = Direction.UPSTREAM, Direction.DOWNSTREAM
ANSWER, RELEASE = "projects/p/answers/a", f"{MODEL}/releases/1"
JUDGE, SILENT = "projects/p/models/judge/versions/4", "projects/p/models/judge/versions/5"
DATA, INGESTION = "projects/p/datasets/d/versions/1", "projects/p/ingestions/i"
APPROVED = replace(POLICY, approvals=(ApprovalRule(ApproverRole.RELEASER, 1), ApprovalRule(ApproverRole.ADMIN, 1)))
DIGESTS = [f"{number:064x}" for number in range(2_100)]
"""More sources than an event names."""


class Heard:
    """An event of the project."""

    project = "p"

    def __init__(self, data: Message, cycle: str = "") -> None:
        self.data, self.cycle = data, cycle


@pytest.fixture
async def database(database_for: DatabaseFor) -> Database:
    return await database_for("mainspring_registry")


@pytest.fixture
def world(tmp_path: Path, database: Database) -> World:
    return make_world(tmp_path, PostgresLineage(database), database)


@pytest.fixture
def data() -> FakeData:
    sources = tuple(DataSource(f"projects/p/sources/{digest}", f"{digest}.txt") for digest in DIGESTS)
    return FakeData(DatasetFacts(DATA, INGESTION, "", sources))


@pytest.fixture
def lineages(world: World, data: FakeData) -> Lineages:
    return Lineages(world.ports, world.catalogue, data)


@pytest.fixture
def reactions(world: World, lineages: Lineages) -> Reactions:
    return Reactions(world.catalogue, world.gate, world.releases, Cycles(world.ports), lineages)


def names(walk: Walk) -> set[str]:
    return {node.name for node in walk.nodes}


async def measured(world: World, reactions: Reactions, *judges: str) -> tuple[str, str]:
    """A version that is measured and found better; its name and the run's."""
    version = await world.version()
    found = evidence(version, 0.1, BASE)
    event = EvaluationRunCompleted(
        evaluation_run=found.evaluation_run,
        evaluation_suite=SUITE,
        candidate=version.name,
        candidate_manifest_sha256=version.manifest.sha256,
        baseline=BASE,
        results=[scorer_result_to_proto(result) for result in found.results],
        items=found.items,
        fidelity=fidelity_to_proto(found.fidelity),
        judge_model_versions=judges,
    )
    heard: Any = Heard(event, "cycle")
    await reactions.on_evaluation_completed(heard)
    return version.name, found.evaluation_run


async def test_an_answer_leads_back_to_who_judged_and_a_judge_forward_to_what_it_judged(
    world: World, lineages: Lineages, reactions: Reactions
) -> None:
    await world.put_policy(POLICY)
    async with world.ports.transactions.transaction():
        await world.ports.lineage.add([Edge(DATA, JUDGE, Relation.TRAINED_ON)])
    version, run = await measured(world, reactions, JUDGE, SILENT)
    await lineages.answered("p", ANSWER, version, RELEASE)
    found = await lineages.walk(ANSWER, UP, 0)
    assert {Edge(JUDGE, run, Relation.JUDGED_BY), Edge(SILENT, run, Relation.JUDGED_BY)} <= set(found.edges)
    assert {RELEASE, version, run, JUDGE, SILENT} <= names(found)
    assert DATA not in names(found), "a model is not made from what its judge learned from"
    assert names(await lineages.walk(JUDGE, DOWN, 0)) == {JUDGE, run}
    assert {run, RELEASE} <= names(await lineages.walk(version, DOWN, 0))


async def test_an_answer_leads_back_to_who_approved_and_a_version_forward_to_its_approvals(
    world: World, lineages: Lineages, reactions: Reactions
) -> None:
    await world.put_policy(APPROVED)
    version, _ = await measured(world, reactions)
    digest = (await world.catalogue.version(version)).manifest.sha256
    first, none = await world.gate.approve("a", version, digest, "read it", BEN)
    assert none is None
    assert first.name in names(await lineages.walk(version, DOWN, 0)), "it counts before there is a release"
    second, release = await world.gate.approve("b", version, digest, "", ADA)
    late, _ = await world.gate.approve("c", version, digest, "", ANNA)
    assert release is not None
    await lineages.answered("p", ANSWER, version, release.name)
    found = await lineages.walk(ANSWER, UP, 0)
    for approval in (first, second):
        assert Edge(approval.name, release.name, Relation.APPROVED_BY) in found.edges
        assert Edge(version, approval.name, Relation.APPROVES) in found.edges
    assert late.name not in names(found), "the release did not need it"
    assert {first.name, second.name, late.name, release.name} <= names(await lineages.walk(version, DOWN, 0))
    assert names(await lineages.walk(first.name, DOWN, 0)) == {first.name, release.name}


async def test_an_approval_that_is_not_kept_leaves_no_edge(
    world: World, lineages: Lineages, reactions: Reactions
) -> None:
    await world.put_policy(replace(POLICY, approvals=APPROVED.approvals[:1]))
    version, _ = await measured(world, reactions)
    digest = (await world.catalogue.version(version)).manifest.sha256
    world.notary.failure = Unavailable("KEY_UNAVAILABLE", "nobody signs now")
    with pytest.raises(Unavailable):
        await world.gate.approve("a", version, digest, "", BEN)
    assert not any("/approvals/" in name for name in names(await lineages.walk(version, DOWN, 0)))


async def test_f8_approvals_from_before_are_drawn_by_the_upgrade(database: Database) -> None:
    """The statement of revision 0009, on an approval as revision 0008 kept it."""
    revision = import_module("mainspring_registry.migrations.0009_approval_edges")
    approval, version = f"{MODEL}/approvals/a", f"{MODEL}/versions/1"
    async with database.transaction() as connection:
        await connection.execute(
            text("INSERT INTO approval (name, parent, sort_key, body) VALUES (:name, 'm', '1', cast(:body AS jsonb))"),
            {"name": approval, "body": f'{{"model_version": "{version}"}}'},
        )
        for _ in range(2):
            await connection.execute(text(revision.KNOWN_APPROVALS))
        found = await PostgresLineage(database).walk([approval], UP, max_hops=9, max_nodes=9)
    assert found.edges == (Edge(version, approval, Relation.APPROVES),)


async def test_a_version_of_many_sources_leads_back_to_all_and_each_leads_forward_to_it(
    world: World, lineages: Lineages, reactions: Reactions, data: FakeData
) -> None:
    published: Any = Heard(
        DatasetVersionPublished(dataset_version=DATA, ingestion=INGESTION, source_sha256s=DIGESTS[:2_000])
    )
    await reactions.on_dataset_published(published)
    await world.put_policy(POLICY)
    await world.base()
    trained = await world.trained("r")
    version = await world.catalogue.register_adapter(
        replace(trained, lineage=replace(trained.lineage, dataset_version=DATA))
    )
    await world.measure(version, 0.1)
    await lineages.answered("p", ANSWER, version.name, RELEASE)
    last = f"projects/p/sources/{DIGESTS[-1]}"
    forward = names(await lineages.walk(last, DOWN, 0))
    assert {DATA, trained.lineage.training_run, version.name, RELEASE} <= forward, "nobody walked back before"
    back = await lineages.walk(ANSWER, UP, 0)
    assert {f"projects/p/sources/{digest}" for digest in DIGESTS} <= names(back)
    assert (back.truncated, data.asked) == (False, [DATA])


async def test_f15_many_sources_wait_for_data_ingest_and_are_asked_for_by_a_walk_where_it_knows_nothing(
    lineages: Lineages, reactions: Reactions, data: FakeData
) -> None:
    published: Any = Heard(
        DatasetVersionPublished(dataset_version=DATA, ingestion=INGESTION, source_sha256s=DIGESTS[:2_000])
    )
    data.failure = Unavailable("SERVICE_UNAVAILABLE", "cannot be reached")
    with pytest.raises(Unavailable):
        await reactions.on_dataset_published(published)
    data.failure, known = None, data.known.pop(DATA)
    published.data.supersedes = "projects/p/datasets/d/versions/0"
    await reactions.on_dataset_published(published)
    assert names(await lineages.walk(DATA, UP, 0)) == {DATA, published.data.supersedes}
    data.known[DATA] = known
    assert len(names(await lineages.walk(DATA, UP, 0))) == len(DIGESTS) + 3
