"""A database that was restored from before: it gives no number out twice, and gets back what was signed."""

import asyncio
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from mainspring.events.v1.registry_events_pb2 import ModelReleased, ModelVersionRegistered, ReleaseRevoked
from mainspring.registry.v1 import release_pb2
from mainspring_eventkit.bus import Bus
from mainspring_registry.domain.history import HistoryKind
from mainspring_svckit.errors import NotFound
from mainspring_svckit.mapping import artifact_from_proto
from mainspring_testkit.events import EventTap, publish
from mainspring_testkit.servers import PostgresServer
from mainspring_testkit.service import ServiceProcess, Surroundings
from mainspring_testkit.waiting import eventually

from .processes import BASE, MODEL, Registry, start_registry

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

    # What the copy has never seen: a release, one that was taken back and whose signature is lost, a model.
    await replica.start()
    await turn(registry, bus, event_tap, 2, f"{MODEL}/versions/1")
    await turn(registry, bus, event_tap, 3, f"{MODEL}/versions/2")
    await registry.call("RevokeRelease", name=f"{MODEL}/releases/3", reason="worse")
    late = await registry.run_succeeded(9)
    late.model = LATE
    await publish(bus, late)
    await event_tap.wait_for(ModelVersionRegistered, count=5, within_s=60)
    await event_tap.wait_for(ReleaseRevoked, within_s=60)
    before = await state(registry)
    lost = (await registry.call("GetModelVersion", name=f"{MODEL}/versions/3")).model_version.proof
    assert await replica.stop() == 0
    await registry.artifacts.discard("p", artifact_from_proto(lost))

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
