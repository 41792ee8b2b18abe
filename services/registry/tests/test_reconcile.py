"""A database that was restored from before: it gives no number out twice, and gets back what was signed."""

import asyncio
import hashlib
import json
import sys
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest

from mainspring.events.v1.registry_events_pb2 import ModelReleased, ModelVersionRegistered, ReleaseRevoked
from mainspring.registry.v1 import release_pb2
from mainspring_eventkit.bus import Bus
from mainspring_registry.application.currency import Currency
from mainspring_registry.application.ledger import Ledger
from mainspring_registry.application.reconciling import Reconciliation
from mainspring_registry.domain.history import HistoryKind
from mainspring_registry.domain.reconciling import (
    Heard,
    HeardRelease,
    HeardVersion,
    Outcome,
    SignedManifest,
    SignedRelease,
)
from mainspring_svckit.errors import NotFound, PreconditionFailed, Unavailable
from mainspring_svckit.mapping import artifact_from_proto
from mainspring_svckit.values import ArtifactRef
from mainspring_testkit.events import EventTap, publish
from mainspring_testkit.fakes import FakeRepository
from mainspring_testkit.servers import PostgresServer
from mainspring_testkit.service import ServiceProcess, Surroundings
from mainspring_testkit.waiting import eventually

from .fakes import FakeMemory
from .processes import BASE, MODEL, Registry, start_registry
from .world import POLICY, World

TIME = datetime(2026, 1, 1, tzinfo=UTC)
OLDER = "DATABASE_IS_OLDER_THAN_THE_BUS"
LATE = "projects/p/models/late"


async def turn(registry: Registry, bus: Bus, tap: EventTap, number: int, baseline: str) -> None:
    """Trains, measures and releases the version of that number."""
    await publish(bus, await registry.run_succeeded(number))
    version = f"{MODEL}/versions/{number}"

    async def told(kind: Any, name: str) -> bool:
        return any(name in (getattr(one, "release", ""), one.model_version) for one in tap.of(kind))

    await eventually(lambda: told(ModelVersionRegistered, version), within_s=60, what=version)
    await publish(bus, await registry.evaluated(version, 0.1, baseline))
    release = f"{MODEL}/releases/{number}"
    await eventually(lambda: told(ModelReleased, release), within_s=60, what=release)


async def job(replica: ServiceProcess, *words: str) -> tuple[int | None, dict[str, Any]]:
    """Runs the job beside a replica; returns its status and its report."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "mainspring_registry.main", "reconcile", *words,
        env=replica.env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert out, err.decode()
    return process.returncode, json.loads(out)


async def state(registry: Registry) -> dict[str, Any]:
    """What the registry says of what the older copy lacks; of versions without the times and names of files."""
    version = (await registry.call("GetModelVersion", name=f"{MODEL}/versions/2")).model_version
    version.ClearField("create_time")
    for file in version.artifacts.values():
        file.ClearField("filename")
    release = (await registry.call("GetRelease", name=f"{MODEL}/releases/2")).release
    edges = (await registry.call("GetLineage", name=f"{MODEL}/versions/2")).edges
    late = (await registry.call("GetModelVersion", name=f"{LATE}/versions/1")).model_version.manifest
    return {
        "version": version,
        "release": release,
        "lineage": sorted((edge.source, edge.target, edge.relation) for edge in edges),
        "late": late,
    }


async def what_the_copy_has_never_seen(registry: Registry, bus: Bus, tap: EventTap) -> ArtifactRef:
    """A release, one that is taken back, another model; returns the signature of the version that was taken back."""
    await turn(registry, bus, tap, 2, f"{MODEL}/versions/1")
    await turn(registry, bus, tap, 3, f"{MODEL}/versions/2")
    await registry.call("RevokeRelease", name=f"{MODEL}/releases/3", reason="worse")
    late = await registry.run_succeeded(9)
    late.model = LATE
    await publish(bus, late)
    await tap.wait_for(ModelVersionRegistered, count=5, within_s=60)
    await tap.wait_for(ReleaseRevoked, within_s=60)
    version = (await registry.call("GetModelVersion", name=f"{MODEL}/versions/3")).model_version
    return artifact_from_proto(version.proof)


async def test_f22_a_restored_database_gives_no_number_out_twice_and_gets_back_what_was_signed(
    surroundings: Surroundings, postgres: PostgresServer, bus: Bus, event_tap: EventTap, artifact_url: str,
    tmp_path: Path,
) -> None:  # fmt: skip
    registry = await start_registry(surroundings, postgres, artifact_url, tmp_path, count=1)
    (replica,) = registry.replicas
    await registry.import_base()
    await registry.apply_policy()
    await turn(registry, bus, event_tap, 1, f"{BASE}/versions/1")
    await replica.stop()
    backup = await postgres.backup(registry.database_url)

    await replica.start()
    lost = await what_the_copy_has_never_seen(registry, bus, event_tap)
    before = await state(registry)
    assert await replica.stop() == 0
    await registry.artifacts.discard("p", lost)

    # The older copy serves what it knows, gives nothing out, and says why.
    replica.env["MAINSPRING_DATABASE_URL"] = backup
    await replica.start(ready=False)

    async def refuses() -> bool:
        status, body = await replica.get("/readyz")
        return status == 503 and OLDER in body

    await eventually(refuses, within_s=60, what="the refusal")
    assert OLDER in str((await registry.import_base("another")).error)
    with pytest.raises(NotFound):
        await registry.call("GetModelVersion", name=f"{BASE}/versions/2")

    # The report changes nothing, the repair puts back what was signed and burns the other numbers.
    status, report = await job(replica)
    assert (status, report["repaired"]) == (1, False)
    with pytest.raises(NotFound):
        await registry.call("GetRelease", name=f"{MODEL}/releases/2")
    status, repaired = await job(replica, "--repair")
    assert (status, repaired["findings"]) == (0, report["findings"])
    said = {(one["event_type"].split(".")[-2], one["name"]): one["outcome"] for one in repaired["findings"]}
    assert said == {
        ("registered", f"{MODEL}/versions/2"): "REBUILT",
        ("released", f"{MODEL}/releases/2"): "REBUILT",
        ("registered", f"{MODEL}/versions/3"): "BURNT",
        ("released", f"{MODEL}/releases/3"): "BURNT",
        ("release_revoked", f"{MODEL}/releases/3"): "BURNT",
        ("registered", f"{LATE}/versions/1"): "REBUILT",
    }
    assert await job(replica) == (0, {"repaired": False, "counts": dict.fromkeys(report["counts"], 0), "findings": []})
    assert await state(registry) == before
    assert (await registry.call("VerifyHistory", name=MODEL)).intact

    # The running service goes on by itself, after the numbers that are burnt.
    await eventually(replica.is_ready, within_s=60, what="readiness")
    await turn(registry, bus, event_tap, 4, f"{MODEL}/versions/2")
    releases = (await registry.call("ListReleases", parent=MODEL)).releases
    assert [(one.name[-1], one.state) for one in releases] == [
        ("4", release_pb2.Release.STATE_ACTIVE),
        ("2", release_pb2.Release.STATE_SUPERSEDED),
        ("1", release_pb2.Release.STATE_SUPERSEDED),
    ]
    chain = await registry.call("VerifyHistory", name=MODEL)
    assert (chain.intact, list(chain.problems)) == (True, [])
    entries = (await registry.call("ListHistory", parent=MODEL)).entries
    assert release_pb2.HistoryEntry.Kind.Value(f"KIND_{HistoryKind.RECONCILED}") in {one.kind for one in entries}
    # Nobody was told anything twice.
    for kind in (ModelVersionRegistered, ModelReleased):
        told = Counter(getattr(one, "release", "") or one.model_version for one in event_tap.of(kind))
        assert set(told.values()) == {1}, told


async def told_of(world: World) -> tuple[Heard, Heard]:
    """The events of a release and its version that the world has never seen, all signed files in its store."""
    await world.put_policy(POLICY)
    version = await world.version()
    await world.measure(version, 0.1)
    (release,) = await world.ports.releases.all()
    about_version = HeardVersion(
        version.name, MODEL, version.kind, version.base_model_version, version.manifest, version.proof, "anna"
    )
    about_release = HeardRelease(release.name, MODEL, version.name, release.gate_decision, release.proof)
    for table in (world.ports.versions, world.ports.releases, world.ports.decisions, world.ports.history):
        for item in await table.all():
            if item.name.startswith(MODEL):
                await table.remove(item.name)
    await world.ports.models.remove(MODEL)
    return Heard("1", "v", TIME, "cycle", 1, about_version), Heard("2", "r", TIME, "cycle", 2, about_release)


class WorldSeals:
    """`Seals` over what the fake notary signed."""

    def __init__(self, world: World) -> None:
        self.world = world

    async def version(self, bundle: bytes) -> SignedManifest:
        manifest = bundle.removeprefix(b"signed ")
        body = json.loads(manifest)
        return SignedManifest(body["name"], hashlib.sha256(manifest).hexdigest(), body)

    async def release(self, bundle: bytes) -> SignedRelease:
        record = next(one for one in self.world.notary.releases if one.release in bundle.decode())
        return SignedRelease(
            record.release,
            record.model_version,
            record.manifest_sha256,
            record.time,
            json.loads(json.dumps(record.details)),
        )


def reconciliation(world: World, memory: FakeMemory) -> Reconciliation:
    return Reconciliation(world.ports, world.catalogue, world.releases, memory, WorldSeals(world))


async def test_f22_a_model_that_the_copy_has_never_seen_comes_back_with_its_champion(world: World) -> None:
    heard = await told_of(world)
    memory = FakeMemory(
        *heard, promoted=[(heard[1].fact.name, heard[0].fact.name), ("projects/p/models/x/releases/1", "")]
    )
    said = len(world.outbox.emitted)
    findings = await reconciliation(world, memory).run(repair=True)
    assert [(one.name, one.outcome) for one in findings] == [(one.fact.name, Outcome.REBUILT) for one in heard]
    model: Any = await world.ports.models.get(MODEL)
    assert (model.value.versions, model.value.releases, model.value.decisions) == (1, 1, 1)
    assert (model.value.active_release, model.value.aliases) == (heard[1].fact.name, {"champion": "1"})
    version: Any = await world.ports.versions.get(heard[0].fact.name)
    assert (version.value.author, version.value.cycle, version.value.training_run[-1]) == ("anna", "cycle", "r")
    assert (await Ledger(world.ports).verify(MODEL)).problems == []
    assert await reconciliation(world, memory).run(repair=True) == []
    assert len(world.outbox.emitted) == said
    assert (await world.version("next")).name == f"{MODEL}/versions/2"


async def test_f22_a_release_that_comes_back_before_its_roll_out_ended_is_the_challenger(world: World) -> None:
    first = await world.version("first")
    await world.put_policy(POLICY)
    await world.measure(first, 0.1)
    await world.releases.promoted(f"{MODEL}/releases/1", first.name)
    copy = {name: dict(table.rows) for name, table in vars(world.ports).items() if isinstance(table, FakeRepository)}
    second = await world.version("second")
    await world.measure(second, 0.1, baseline=first.name)
    release: Any = await world.ports.releases.get(f"{MODEL}/releases/2")
    for name, rows in copy.items():
        getattr(world.ports, name).rows = rows
    about_version = HeardVersion(
        second.name, MODEL, second.kind, second.base_model_version, second.manifest, second.proof, second.author
    )
    about_release = HeardRelease(
        release.value.name, MODEL, second.name, release.value.gate_decision, release.value.proof
    )
    heard = (Heard("1", "v", TIME, "cycle", 1, about_version), Heard("2", "r", TIME, "cycle", 2, about_release))
    findings = await reconciliation(world, FakeMemory(*heard)).run(repair=True)
    assert [one.outcome for one in findings] == [Outcome.REBUILT, Outcome.REBUILT]
    model: Any = await world.ports.models.get(MODEL)
    assert model.value.aliases == {"champion": "1", "challenger": "2"}
    assert (await Ledger(world.ports).verify(MODEL)).problems == []


@pytest.mark.parametrize("harm", ["digest", "base", "model", "unsigned", "file", "release"])
async def test_f22_what_is_not_as_it_was_signed_is_burnt(world: World, harm: str) -> None:
    heard, about_release = await told_of(world)
    fact: Any = heard.fact
    match harm:
        case "digest":
            fact = replace(fact, manifest=replace(fact.manifest, sha256="0" * 64))
        case "base":
            fact = replace(fact, base_model_version="")
        case "model":
            fact = replace(fact, model=LATE)
        case "unsigned":
            fact = replace(fact, proof=None)
        case "file":
            adapter = await world.files.put_bytes("p", b"r")
            await world.files.discard("p", adapter)
        case _:
            # A release's record of another release of the same version.
            about_release = replace(about_release, fact=replace(about_release.fact, name=f"{MODEL}/releases/7"))
    memory = FakeMemory(replace(heard, fact=fact), about_release)
    findings = await reconciliation(world, memory).run(repair=True)
    intact = Outcome.REBUILT if harm == "release" else Outcome.BURNT
    assert [one.outcome for one in findings] == [intact, Outcome.BURNT]
    assert all(one.why for one in findings if one.outcome is Outcome.BURNT)
    assert len(await world.ports.releases.all()) == 0
    model: Any = await world.ports.models.get(fact.model)
    assert (model.value.versions, model.value.active_release) == (1, "")
    if harm == "release":
        assert model.value.releases == 7


async def test_f22_a_number_that_was_given_out_twice_already_is_told_and_left(world: World) -> None:
    heard, _ = await told_of(world)
    other = await world.version("another run")
    (finding,) = await reconciliation(world, FakeMemory(heard)).run(repair=True)
    assert (finding.name, finding.outcome) == (other.name, Outcome.CONFLICT)
    known: Any = await world.ports.versions.get(other.name)
    assert known.value == other


async def test_f22_numbers_stand_still_while_the_bus_knows_more(world: World) -> None:
    heard, _ = await told_of(world)
    memory = FakeMemory(heard)
    currency = Currency(world.ports.transactions, memory)
    for _ in range(2):
        with pytest.raises(PreconditionFailed) as caught:
            await currency.require_current()
        assert (caught.value.reason, caught.value.metadata["name"]) == (OLDER, heard.fact.name)
    memory.heard.clear()
    await currency.check()
    await asyncio.gather(currency.require_current(), currency.settled(), currency.probe())
    memory.failure = Unavailable("BUS_UNAVAILABLE", "away")
    with pytest.raises(Unavailable):
        await currency.check()
    await currency.require_current()  # What was known still holds: a dead bus stops no release.


async def test_f22_nothing_is_numbered_while_numbers_stand_still(world: World) -> None:
    await world.put_policy(POLICY)
    version = await world.version()
    cast("Any", world.ports.numbers).failure = PreconditionFailed(OLDER, "older")
    with pytest.raises(PreconditionFailed):
        await world.version("more")
    with pytest.raises(PreconditionFailed):
        await world.measure(version, 0.1)
    assert await world.ports.releases.all() == []
