"""What happened to a model is written down for ever: the chain, and that Postgres itself refuses to change it."""

import asyncio
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from mainspring.events.v1.registry_events_pb2 import ModelReleased, ModelVersionRegistered
from mainspring.registry.v1 import release_pb2
from mainspring_eventkit.bus import Bus
from mainspring_registry.application.ledger import Ledger
from mainspring_registry.domain.history import HistoryKind
from mainspring_svckit.errors import PreconditionFailed
from mainspring_testkit.events import EventTap, publish

from .processes import MODEL, Registry
from .world import ANNA, POLICY, World


async def two_releases(world: World) -> None:
    await world.put_policy(POLICY)
    first = await world.version("r1")
    await world.measure(first, 0.1)
    second = await world.version("r2")
    await world.measure(second, 0.1, baseline=first.name)
    await world.releases.revoke(f"{MODEL}/releases/2", "worse", ANNA)


async def test_i13_everything_that_happens_is_in_the_chain(world: World) -> None:
    await two_releases(world)
    kinds = [entry.kind.value for entry in await world.ports.history.all()]
    assert kinds == ["DECIDED", "RELEASED", "DECIDED", "SUPERSEDED", "RELEASED", "REVOKED", "RESTORED"]
    chain = await Ledger(world.ports).verify(MODEL)
    assert (chain.problems, chain.entries, chain.active) == ([], 7, f"{MODEL}/releases/1")
    # The signed manifest of a release holds the head of the chain before it.
    entries = {entry.sha256 for entry in await world.ports.history.all()}
    assert world.notary.releases[1].details["history_sha256"] in entries


@pytest.mark.parametrize("number", [1, 4, 7])
@pytest.mark.parametrize("harm", ["changed", "removed", "rehashed"])
async def test_i13_a_chain_that_somebody_touched_says_where(world: World, number: int, harm: str) -> None:
    await two_releases(world)
    name = f"{MODEL}/history/{number}"
    found: Any = await world.ports.history.get(name)
    forged = replace(found.value, actor="nobody")
    if harm == "removed":
        await world.ports.history.remove(name)
    else:
        await world.ports.history.put(replace(forged, sha256=forged.computed_sha256) if harm == "rehashed" else forged)
    assert (await Ledger(world.ports).verify(MODEL)).problems


async def test_i13_a_release_that_no_entry_tells_of_is_found(world: World) -> None:
    await two_releases(world)
    model: Any = await world.ports.models.get(MODEL)
    await world.ports.models.put(replace(model.value, active_release=f"{MODEL}/releases/2"))
    (problem,) = (await Ledger(world.ports).verify(MODEL)).problems
    assert "releases/2 is active" in problem


async def test_a_model_from_before_histories_begins_with_what_was_active(world: World) -> None:
    await two_releases(world)
    for entry in await world.ports.history.all():
        await world.ports.history.remove(entry.name)
    model: Any = await world.ports.models.get(MODEL)
    await world.ports.models.put(replace(model.value, history=0, history_sha256=""))
    await world.catalogue.set_alias(MODEL, "mine", f"{MODEL}/versions/1", ANNA)
    assert [entry.kind for entry in await world.ports.history.all()] == [HistoryKind.RESTORED, HistoryKind.ALIAS_MOVED]
    assert (await Ledger(world.ports).verify(MODEL)).problems == []


async def test_i13_postgres_refuses_to_change_what_is_written(
    registry: Registry, bus: Bus, event_tap: EventTap
) -> None:
    await registry.import_base()
    await registry.apply_policy()
    await publish(bus, await registry.run_succeeded(1))
    await event_tap.wait_for(ModelVersionRegistered, count=2)
    await publish(bus, await registry.evaluated(f"{MODEL}/versions/1", 0.1))
    await event_tap.wait_for(ModelReleased)
    for table in ("history", "gate_decision", "evidence", "approval"):
        for statement in (f"UPDATE {table} SET body = body", f"DELETE FROM {table}", f"TRUNCATE {table}"):
            with pytest.raises(asyncpg.IntegrityConstraintViolationError, match="kept for ever"):
                await registry.execute(statement)
    for table in ("release", "model_version", "model"):
        with pytest.raises(asyncpg.IntegrityConstraintViolationError):
            await registry.execute(f"DELETE FROM {table}")
    found = await registry.call("VerifyHistory", name=MODEL)
    assert (found.intact, found.entries, list(found.problems)) == (True, 2, [])
    entries = (await registry.call("ListHistory", parent=MODEL)).entries
    assert [entry.kind for entry in entries] == [
        release_pb2.HistoryEntry.KIND_DECIDED, release_pb2.HistoryEntry.KIND_RELEASED,
    ]  # fmt: skip
    # Somebody with the owner's rights takes the guard away and changes a word: the chain tells.
    await registry.execute("ALTER TABLE history DISABLE TRIGGER USER")
    await registry.execute("UPDATE history SET body = jsonb_set(body, '{actor}', '\"nobody\"') WHERE name LIKE '%/1'")
    found = await registry.call("VerifyHistory", name=MODEL)
    assert not found.intact
    assert "history/1 was changed" in found.problems[0]


async def test_i3_f13_two_releases_of_one_model_at_once_are_one_after_the_other(
    registry: Registry, bus: Bus, event_tap: EventTap
) -> None:
    await registry.import_base()
    await registry.apply_policy()
    for number in (1, 2):
        await publish(bus, await registry.run_succeeded(number))
    await event_tap.wait_for(ModelVersionRegistered, count=3)
    versions = [f"{MODEL}/versions/{number}" for number in (1, 2)]
    await asyncio.gather(*[publish(bus, await registry.evaluated(version, 0.1)) for version in versions])
    await event_tap.wait_for(ModelReleased)

    async def by_hand(version: str) -> str:
        try:
            return (await registry.call("CreateRelease", parent=MODEL, model_version=version)).release.name
        except PreconditionFailed as err:
            return err.reason

    # Both were compared with the base; whoever came second is not compared with what serves now.
    said = await asyncio.gather(*(by_hand(version) for version in versions * 3))
    assert set(said) == {"ALREADY_ACTIVE", "RELEASE_NOT_ALLOWED"}
    releases = (await registry.call("ListReleases", parent=MODEL)).releases
    assert [release.state for release in releases] == [release_pb2.Release.STATE_ACTIVE]
    assert (await registry.call("VerifyHistory", name=MODEL)).intact
