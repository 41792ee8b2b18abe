"""Upgrades, crashes while upgrading, and input that no client of ours sends."""

import asyncio
import json
import os
import signal
import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from mainspring.events.v1.registry_events_pb2 import ModelReleased, ModelVersionRegistered, ReleaseRevoked
from mainspring_eventkit.bus import Bus
from mainspring_proof import bundles, statements
from mainspring_registry.adapters import postgres as tables
from mainspring_registry.adapters.memory import TrustedSeals
from mainspring_registry.domain.catalogue import Model, ModelKind, ModelQuery
from mainspring_svckit.errors import ConcurrentChange, NotFound, PreconditionFailed, Unavailable
from mainspring_svckit.ids import new_id
from mainspring_svckit.pagination import Page
from mainspring_testkit.events import EventTap, committed_late, publish
from mainspring_testkit.fakes import FakeClock
from mainspring_testkit.plugin import DatabaseFor, Token
from mainspring_testkit.proof import SigningKey
from mainspring_testkit.requests import assert_refused
from mainspring_testkit.servers import NatsServer, PostgresServer, scratch_folder
from mainspring_testkit.service import Surroundings
from mainspring_testkit.waiting import eventually

from .fakes import FakeModels
from .processes import MODEL, Registry, start_registry

TABLES = ("model_version", "lineage_edge", "evidence", "approval", "history", "prompt")


async def migrator(database: str) -> asyncio.subprocess.Process:
    env = {**os.environ, "MAINSPRING_DATABASE_URL": database, "MAINSPRING_SIGNING_KEY_URL": "file:///none",
           "MAINSPRING_SIGNING_KEYS": "/none"}  # fmt: skip
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "mainspring_registry.main", "migrate", env=env, stderr=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip


async def tables_of(database: str) -> set[str]:
    connection: Any = await asyncpg.connect(database)
    try:
        rows = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        return {row["tablename"] for row in rows}
    finally:
        await connection.close()


async def test_f8_two_migrators_at_once_and_one_that_is_killed_leave_a_whole_schema(postgres: PostgresServer) -> None:
    database = await postgres.new_database()
    killed = await migrator(database)
    killed.send_signal(signal.SIGKILL)
    await killed.wait()
    both = [await migrator(database) for _ in range(2)]
    said = await asyncio.gather(*(one.communicate() for one in both))
    assert [one.returncode for one in both] == [0, 0], said
    assert set(TABLES) <= await tables_of(database)
    again = await migrator(database)
    await again.communicate()
    assert again.returncode == 0


async def test_f8_evidence_that_only_decisions_held_is_kept_by_the_upgrade(database_for: DatabaseFor) -> None:
    """The statement of revision 0006, on a decision as revision 0005 kept it."""
    revision = import_module("mainspring_registry.migrations.0006_gate")
    database = await database_for("mainspring_registry")
    body = (
        '{"model_version": "projects/p/models/m/versions/1", "cycle": "", "create_time": "2026-01-01T00:00:00Z",'
        ' "evidence": {"evaluation_run": "projects/p/evaluationRuns/e", "candidate_manifest_sha256": "aa",'
        ' "baseline": "b", "results": [], "items": 50, "fidelity": null}}'
    )
    async with database.transaction() as connection:
        await connection.execute(
            text(
                "INSERT INTO gate_decision (name, parent, sort_key, body)"
                " VALUES ('projects/p/models/m/gateDecisions/1', 'm', '1', cast(:body AS jsonb))"
            ),
            {"body": body},
        )
        await connection.execute(text(revision.KNOWN_EVIDENCE))
        (record,) = await tables.evidence(database).find("model_version", "projects/p/models/m/versions/1")
    assert (record.suite, record.evidence.items, record.name) == ("", 50, "projects/p/evaluationRuns/e")


async def test_f4_f12_a_hundred_copies_that_the_bus_takes_for_new_are_one_decision(
    registry: Registry, bus: Bus, event_tap: EventTap
) -> None:
    await registry.import_base()
    await registry.apply_policy()
    await publish(bus, await registry.run_succeeded(1))
    await event_tap.wait_for(ModelVersionRegistered, count=2)
    measured = await registry.evaluated(f"{MODEL}/versions/1", -0.1)
    # Twenty by the same event id, as the bus does, and others as if the evaluator had told it twice.
    for number in range(100):
        await publish(bus, measured, event_id=f"e{number % 5}")

    async def decided() -> int:
        return len((await registry.call("ListGateDecisions", parent=MODEL)).gate_decisions)

    async with asyncio.timeout(20):
        while await decided() == 0:  # noqa: ASYNC110 - the registry tells nobody of refusals but the bus
            await asyncio.sleep(0.05)
    assert await decided() == 1
    assert (await registry.call("VerifyHistory", name=MODEL)).intact


async def measured_before_there_was_a_policy(registry: Registry, bus: Bus) -> str:
    """A version that a release by hand would be allowed for; returns its name."""
    await registry.import_base()
    await publish(bus, await registry.run_succeeded(1))
    version = f"{MODEL}/versions/1"

    async def registered() -> bool:
        with suppress(NotFound):
            return bool((await registry.call("GetModelVersion", name=version)).model_version.name)
        return False

    await eventually(registered, what="the version")
    evaluated = await registry.evaluated(version, 0.1)
    await publish(bus, evaluated)

    async def heard() -> bool:
        with suppress(NotFound):
            return bool((await registry.call("GetLineage", name=evaluated.evaluation_run)).nodes)
        return False

    await eventually(heard, what="the evidence")
    await registry.apply_policy()  # After the evidence, so that the gate releases nothing by itself.
    return version


async def test_f3_a_release_made_while_the_bus_is_dead_is_told_of_once_when_it_is_back(
    registry: Registry, bus: Bus, nats_server: NatsServer, event_tap: EventTap
) -> None:
    version = await measured_before_there_was_a_policy(registry, bus)
    await nats_server.kill()
    made = (await registry.call("CreateRelease", parent=MODEL, model_version=version, request_id=new_id())).release
    assert (await registry.call("GetRelease", name=made.name)).release == made
    await nats_server.start(with_topology=False)
    (told,) = await event_tap.wait_for(ModelReleased, within_s=60)
    assert (told.release, told.release_number) == (made.name, 1)


async def test_f6_a_release_whose_database_dies_under_it_is_made_once(
    surroundings: Surroundings, bus: Bus, artifact_url: str, tmp_path: Path
) -> None:
    async with scratch_folder("f6") as folder:
        server = PostgresServer(folder)
        await server.start()
        try:
            registry = await start_registry(surroundings, server, artifact_url, tmp_path)
            version = await measured_before_there_was_a_policy(registry, bus)
            wish = {"parent": MODEL, "model_version": version, "request_id": new_id()}

            async def release() -> str:
                # Whether the first one was committed nobody knows; its key says so to the next.
                with suppress(Unavailable, ConcurrentChange):
                    return (await registry.call("CreateRelease", **wish)).release.name
                return ""

            asked = [asyncio.create_task(release()) for _ in range(4)]
            await server.kill()
            await asyncio.gather(*asked)
            await server.start()
            assert await eventually(release, within_s=60, what="the release") == f"{MODEL}/releases/1"
            releases = (await registry.call("ListReleases", parent=MODEL)).releases
            assert [one.model_version for one in releases] == [version]
            assert (await registry.call("VerifyHistory", name=MODEL)).intact
            for replica in registry.replicas:
                await replica.stop()
        finally:
            await server.stop()


async def test_b2_bytes_that_are_no_request_are_refused_and_the_service_goes_on(
    registry: Registry, token: Token
) -> None:
    methods = ("CreateApproval", "VerifyHistory", "GetModelCard", "CheckRelease")
    replica = registry.replicas[0]
    await assert_refused(replica.channel, "mainspring.registry.v1.RegistryService", methods, token("admin"))
    assert await replica.is_ready()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
WORDS = st.sampled_from(["mainspring", "resources", "subject", "verificationResult"])
KINDS = (statements.VERSION_PREDICATE, statements.RELEASE_PREDICATE, "https://example.org/other")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    predicate=st.dictionaries(st.sampled_from(["mainspring", "resources", "subject"]) | st.text(), JSON), data=st.data()
)
async def test_b1_whatever_was_signed_is_a_manifest_or_refused(
    key: SigningKey, predicate: dict[str, Any], data: st.DataObject
) -> None:
    """What a restored registry reads from the artifact store, even under the right signature."""
    kind = data.draw(st.sampled_from(KINDS))
    bundle = bundles.sign(bundles.Statement("projects/p/models/m/versions/1", "0" * 64, kind, predicate), key.signer)
    for read in (TrustedSeals(key.trusted).version, TrustedSeals(key.trusted).release):
        with pytest.raises(PreconditionFailed) as caught:
            await read(bundle)
        assert caught.value.reason == "PROOF_INVALID"


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(bundle=st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
async def test_b1_any_bytes_are_a_signed_manifest_or_refused(key: SigningKey, bundle: bytes) -> None:
    with pytest.raises(PreconditionFailed) as caught:
        await TrustedSeals(key.trusted).version(bundle)
    assert caught.value.reason in {"PROOF_INVALID", "PROOF_UNTRUSTED"}


@pytest.fixture
def key(tmp_path: Path) -> SigningKey:
    return SigningKey(tmp_path)


async def test_f21_an_event_that_commits_late_with_a_lower_number_is_told_of_too(
    registry: Registry, event_tap: EventTap
) -> None:
    """Somebody holds a lower number of the outbox open while a version is registered."""
    release = f"{MODEL}/releases/1"
    async with committed_late(registry.database_url, ReleaseRevoked(release=release, model=MODEL), MODEL):
        await registry.import_base()
        await event_tap.wait_for(ModelVersionRegistered)
    (told,) = await event_tap.wait_for(ReleaseRevoked)
    assert told.release == release


class ModelsContract:
    """What every `Models` does with a query; a fixture `found` that fills and searches."""

    QUERIES = (
        (ModelQuery(), {"a", "b", "c"}),
        (ModelQuery(kind=ModelKind.ADAPTER), {"a", "b"}),
        (ModelQuery(tag="team"), {"a", "c"}),
        (ModelQuery(tag="team=x"), {"a"}),
        (ModelQuery(tag="team="), set[str]()),
        (ModelQuery(text="GERMAN"), {"b"}),
        (ModelQuery(text="a' OR '1'='1"), set[str]()),
        (ModelQuery(kind=ModelKind.ADAPTER, tag="team", text="a"), {"a"}),
    )

    def models(self) -> list[Model]:
        now = FakeClock().now()
        return [
            Model("projects/p/models/a", ModelKind.ADAPTER, now, tags={"team": "x"}),
            Model("projects/p/models/b", ModelKind.ADAPTER, now, description="for German letters"),
            Model("projects/p/models/c", ModelKind.FOUNDATION, now, tags={"team": "y"}),
            Model("projects/q/models/d", ModelKind.ADAPTER, now, tags={"team": "x"}),
        ]

    async def check(self, models: Any) -> None:
        for model in self.models():
            await models.add(model)
        for query, wanted in self.QUERIES:
            listed = await models.search("projects/p", query, Page(10, None))
            assert {item.value.name.rsplit("/", 1)[-1] for item in listed.items} == wanted, query
        first = await models.search("projects/p", ModelQuery(), Page(2, None))
        rest = await models.search("projects/p", ModelQuery(), Page(2, first.next_key))
        assert [len(first.items), len(rest.items), rest.next_key] == [2, 1, None]


class TestModelSearch(ModelsContract):
    async def test_a3_the_fake_finds_what_is_asked_for(self) -> None:
        await self.check(FakeModels())

    async def test_a3_postgres_finds_what_is_asked_for(self, database_for: DatabaseFor) -> None:
        database = await database_for("mainspring_registry")
        async with database.transaction():
            await self.check(tables.PostgresModels(database))
