"""The key in a key management service: real signatures over AWS's interface, and what happens when there is none."""

import asyncio
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from mainspring.events.v1.registry_events_pb2 import ModelReleased, ModelVersionRegistered
from mainspring_eventkit.bus import Bus
from mainspring_proof import bundles, keys, statements
from mainspring_registry.adapters.notary import SigningNotary
from mainspring_svckit.errors import Unavailable
from mainspring_svckit.mapping import artifact_from_proto
from mainspring_testkit.aws_server import aws_server
from mainspring_testkit.events import EventTap, publish
from mainspring_testkit.servers import PostgresServer
from mainspring_testkit.service import Surroundings
from mainspring_testkit.waiting import eventually

from .kms import Kms, Line
from .processes import BASE, MODEL, Registry, start_registry


@pytest.fixture
def kms() -> Iterator[Kms]:
    with aws_server() as endpoint:
        yield Kms(endpoint)


@pytest.fixture
async def line(kms: Kms) -> AsyncIterator[Line]:
    made = Line(kms.endpoint)
    await made.join()
    yield made
    await made.cut()


class Signing:
    """One replica that signs with a key of the service."""

    def __init__(self, registry: Registry, kms: Kms, line: Line, trusted: Path) -> None:
        self.registry, self.kms, self.line, self.trusted = registry, kms, line, trusted

    async def start_with(self, key_id: str, *pems: str) -> None:
        """Starts the replica anew; the first key signs, all are believed."""
        self.trusted.write_text("".join(pems))
        replica = self.registry.replicas[0]
        await replica.stop()
        env: dict[str, Any] = self.kms.client_env(self.line.endpoint)
        url = f"awskms:{key_id}"
        await replica.start(**env, MAINSPRING_SIGNING_KEY_URL=url, MAINSPRING_SIGNING_KEYS=str(self.trusted))

    async def proof(self, method: str, field: str, name: str) -> bytes:
        found = getattr(await self.registry.call(method, name=name), field)
        return await self.registry.artifacts.read("p", artifact_from_proto(found.proof))

    async def waits(self, cause: str) -> None:
        """Until the replica has said that it cannot sign, and why."""

        async def said() -> bool:
            log = self.registry.replicas[0].log
            return "event_postponed" in log and cause in log

        await eventually(said, within_s=60, what=f"the registry to say {cause}")


@pytest.fixture
async def signing(
    surroundings: Surroundings, postgres: PostgresServer, artifact_url: str, tmp_path: Path, kms: Kms, line: Line
) -> Signing:
    registry = await start_registry(surroundings, postgres, artifact_url, tmp_path, count=1)
    return Signing(registry, kms, line, tmp_path / "trusted.pem")


async def test_f15_while_the_key_cannot_be_used_nothing_goes_out_unsigned_and_nothing_is_lost(
    signing: Signing, kms: Kms, line: Line, bus: Bus, event_tap: EventTap
) -> None:
    registry, version = signing.registry, f"{MODEL}/versions/1"
    key_id, pem = kms.new_key()
    await signing.start_with(key_id, pem)
    await registry.import_base()
    await registry.apply_policy()

    await line.cut()
    await publish(bus, await registry.run_succeeded(1))
    await signing.waits("EndpointConnectionError")
    assert (await registry.call("GetModelVersion", name=f"{BASE}/versions/1")).model_version.proof.sha256
    assert len(event_tap.of(ModelVersionRegistered)) == 1
    await line.join()
    await event_tap.wait_for(ModelVersionRegistered, count=2, within_s=60)

    await publish(bus, await registry.evaluated(version, 0.1))
    (released,) = await event_tap.wait_for(ModelReleased)
    # By hand, somebody waits for an answer.
    await registry.call("RevokeRelease", name=released.release, reason="to release it once more")
    await line.cut()
    with pytest.raises(Unavailable) as caught:
        await registry.call("CreateRelease", parent=MODEL, model_version=version)
    assert (caught.value.reason, caught.value.metadata["cause"]) == ("SIGNER_UNAVAILABLE", "EndpointConnectionError")
    assert len((await registry.call("ListReleases", parent=MODEL)).releases) == 1
    await line.join()
    again = (await registry.call("CreateRelease", parent=MODEL, model_version=version)).release

    trusted = keys.TrustedKeys.from_pem(pem)
    signed = bundles.verify(await signing.proof("GetModelVersion", "model_version", version), trusted)
    assert statements.read_version(signed).name == version
    release = bundles.verify(await signing.proof("GetRelease", "release", again.name), trusted)
    assert statements.read_release(release).model_version == version


async def test_what_an_older_key_signed_is_still_verified_offline_after_the_key_has_changed(
    signing: Signing, kms: Kms, tmp_path: Path
) -> None:
    (old_id, old_pem), (new_id, new_pem) = kms.new_key(), kms.new_key()
    await signing.start_with(old_id, old_pem)
    await signing.registry.import_base("first")
    await signing.start_with(new_id, new_pem, old_pem)
    await signing.registry.import_base("second")
    both = keys.TrustedKeys.from_pem(new_pem + old_pem)
    for number, pem in (("1", old_pem), ("2", new_pem)):
        bundle = await signing.proof("GetModelVersion", "model_version", f"{BASE}/versions/{number}")
        statement = bundles.verify(bundle, both)
        assert statement.key_id == hashlib.sha256(pem.encode()).hexdigest()
        folder = tmp_path / number
        version = (await signing.registry.call("GetModelVersion", name=f"{BASE}/versions/{number}")).model_version
        folder.mkdir()
        for role, artifact in version.artifacts.items():
            data = await signing.registry.artifacts.read("p", artifact_from_proto(artifact))
            (folder / statements.export_path(role)).write_bytes(data)
        (folder / "model.sig").write_bytes(bundle)
        said = await asyncio.to_thread(verify_offline, folder, signing.trusted)
        assert said.returncode == 0, said.stderr
        assert f"{BASE}/versions/{number}" in said.stdout
    signing.trusted.write_text(new_pem)
    said = await asyncio.to_thread(verify_offline, tmp_path / "1", signing.trusted)
    assert said.returncode != 0
    assert "none of the trusted keys" in said.stderr


def verify_offline(folder: Path, trusted: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "mainspring"), "models", "verify", str(folder), "--keys", str(trusted)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


ASK = """
import asyncio, json, sys
from mainspring_proof import keys
from mainspring_registry.adapters.notary import SigningNotary
from mainspring_svckit.errors import MainspringError

FILES = {"gguf": {"sha256": "0" * 64, "size_bytes": 1}}
MANIFEST = json.dumps({"name": "projects/p/models/m/versions/1", "artifacts": FILES, "licence": "MIT"}).encode()

def ask(url, pem):
    trusted = keys.TrustedKeys.from_pem(pem or keys.public_key(url))
    return asyncio.run(SigningNotary(keys.open_signer(url, trusted)).sign_version(MANIFEST))

said = []
for url, pem in json.load(sys.stdin):
    try:
        said.append("signed" if ask(url, pem) else "nothing")
    except MainspringError as err:
        said.append(f"{err.reason} {err.metadata.get('cause', '')}".strip())
print(json.dumps(said))
"""


def ask(env: dict[str, str], *wishes: tuple[str, str]) -> list[str]:
    """What becomes of a signature by each URL, in a process that has the vendor's library; without a PEM, the service
    is asked for it.
    """
    command, path = [sys.executable, "-P", "-c", ASK], {"PATH": os.environ["PATH"]}
    done = subprocess.run(command, input=json.dumps(wishes), capture_output=True, text=True, env=env | path, check=True)
    return json.loads(done.stdout.splitlines()[-1])  # Before it stands what is logged.


def test_a10_a_key_that_is_missing_of_somebody_else_or_denied_signs_nothing_and_says_why(kms: Kms) -> None:
    (key, pem), (other, _) = kms.new_key(), kms.new_key()
    env = kms.client_env(kms.endpoint)
    assert ask(
        env,
        (f"awskms:{key}", pem),
        (f"awskms:{key}", ""),
        ("awskms:00000000-0000-0000-0000-000000000000", pem),
        (f"awskms:{other}", pem),
    ) == [
        "signed",
        "signed",
        "SIGNER_UNAVAILABLE NotFoundException",
        "SIGNER_NOT_TRUSTED",
    ]
    nowhere = {name: value for name, value in env.items() if name != "AWS_DEFAULT_REGION"}
    assert ask(nowhere, (f"awskms:{key}", pem)) == ["SIGNER_INVALID"]
    assert ask({}, (f"awskms:{key}", pem)) == ["SIGNER_INVALID"], "without the vendor's library"
    kms.check_rights(after=0)
    # AWS names it AccessDeniedException; of moto's answer botocore reads the status only.
    assert ask(env, (f"awskms:{key}", pem)) == ["SIGNER_UNAVAILABLE 403"]


class Hanging:
    """A signer that hangs the first time."""

    def __init__(self, signer: keys.Signer) -> None:
        self.signer, self.calls, self.go_on = signer, 0, threading.Event()

    def sign(self, payload: bytes) -> Any:
        self.calls += 1
        if self.calls == 1:
            self.go_on.wait()
        return self.signer.sign(payload)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.signer, name)


async def test_f15_a_signature_that_hangs_holds_up_neither_the_next_nor_the_end(tmp_path: Path) -> None:
    trusted = keys.TrustedKeys.from_pem(keys.create_key(tmp_path / "key.pem"))
    hanging: Any = Hanging(keys.open_signer(f"file://{tmp_path / 'key.pem'}", trusted))
    files = {"gguf": {"sha256": "0" * 64, "size_bytes": 1}}
    manifest = json.dumps({"name": f"{MODEL}/versions/1", "artifacts": files, "licence": "MIT"}).encode()
    notary = SigningNotary(hanging, pause_s=0, timeout_s=0.5)
    with pytest.raises(Unavailable) as caught:
        await notary.sign_version(manifest)
    assert (caught.value.reason, caught.value.metadata["cause"]) == ("SIGNER_UNAVAILABLE", "TimeoutError")
    await asyncio.gather(notary.usable(), notary.usable())
    assert hanging.calls == 2, "one look is enough for all who wait"
    assert bundles.verify(await notary.sign_version(manifest), trusted)
    assert {thread.daemon for thread in threading.enumerate() if thread.name == "signing"} == {True}
    hanging.go_on.set()
