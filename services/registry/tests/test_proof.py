"""What the registry answers for is signed: over fakes, and by the real service with a real key."""

from dataclasses import replace
from typing import Any

import pytest

from mainspring.events.v1.registry_events_pb2 import ModelReleased, ModelVersionRegistered
from mainspring_eventkit.bus import Bus
from mainspring_proof import bundles, statements
from mainspring_svckit.errors import Unavailable
from mainspring_svckit.mapping import artifact_from_proto
from mainspring_testkit.events import EventTap, publish
from mainspring_testkit.fakes import FakeLease
from mainspring_testkit.waiting import eventually

from .processes import BASE, MODEL, Registry
from .world import POLICY, World


async def test_a_version_and_its_release_are_signed(world: World) -> None:
    await world.put_policy(POLICY)
    version = await world.version()
    await world.measure(version, 0.1)
    assert version.proof is not None
    assert await world.files.read("p", version.proof) == b"signed " + await world.files.read("p", version.manifest)
    (record,) = world.notary.releases
    assert (record.model_version, record.manifest_sha256) == (version.name, version.manifest.sha256)
    assert record.details["decision"]["outcome"] == "ALLOWED"
    (released,) = world.said(ModelReleased)
    assert released.proof.sha256


async def test_without_a_key_nothing_is_registered(world: World) -> None:
    await world.base()
    world.notary.failure = Unavailable("SIGNER_UNAVAILABLE", "away")
    with pytest.raises(Unavailable):
        await world.version()
    assert await world.ports.versions.get(f"{MODEL}/versions/1") is None


async def test_what_is_older_than_signatures_is_signed_once(world: World) -> None:
    await world.put_policy(POLICY)
    version = await world.version()
    await world.measure(version, 0.1)
    release = (await world.ports.releases.get(f"{MODEL}/releases/1")).value  # type: ignore[union-attr]
    lost = await world.version("lost")
    for entity in (version, lost):
        await world.ports.versions.put(replace(entity, proof=None))
    await world.ports.releases.put(replace(release, proof=None))
    del world.files.files["p", lost.manifest.sha256]
    assert await world.proofs.sign_older(FakeLease()) == [lost.name]
    again: Any = await world.ports.versions.get(version.name)
    assert again.value.proof == version.proof
    signed: Any = await world.ports.releases.get(release.name)
    assert signed.value.proof is not None
    assert world.notary.releases[-1].details["signed_later"] is True


async def test_what_is_registered_and_released_is_proved_by_the_real_key(
    registry: Registry, bus: Bus, event_tap: EventTap
) -> None:
    await registry.import_base()
    await registry.apply_policy()
    await publish(bus, await registry.run_succeeded(1))
    await event_tap.wait_for(ModelVersionRegistered, count=2)
    version = f"{MODEL}/versions/1"
    await publish(bus, await registry.evaluated(version, 0.1))
    (released,) = await event_tap.wait_for(ModelReleased)
    trusted = registry.surroundings.signing_key.trusted

    async def proved(message: Any) -> bundles.Statement:
        return bundles.verify(await registry.artifacts.read("p", artifact_from_proto(message.proof)), trusted)

    found = (await registry.call("GetModelVersion", name=version)).model_version
    signed = statements.read_version(await proved(found))
    assert (signed.name, signed.manifest_sha256) == (version, found.manifest.sha256)
    assert signed.files == {role: artifact.sha256 for role, artifact in found.artifacts.items()}
    release = (await registry.call("GetRelease", name=released.release)).release
    said = statements.read_release(await proved(release))
    assert (said.name, said.model_version, said.manifest_sha256) == (released.release, version, found.manifest.sha256)
    assert released.proof == release.proof
    assert said.details["decision"]["rules"]


async def test_f8_an_installation_from_before_signatures_is_signed_when_it_is_upgraded(registry: Registry) -> None:
    await registry.import_base()
    await registry.execute("UPDATE model_version SET body = body - 'proof'")
    await registry.execute(
        "INSERT INTO work (id, kind, key, payload) VALUES (gen_random_uuid(), 'signatures', 'older', '{}')"
    )

    async def signed() -> bool:
        found = await registry.call("GetModelVersion", name=f"{BASE}/versions/1")
        return bool(found.model_version.proof.sha256)

    await eventually(signed, within_s=30, what="the older version to be signed")
