"""What is signed is believed as it was signed, and nothing else; model-signing itself is the judge of the format."""

import hashlib
import json
import stat
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from model_signing import verifying

from mainspring_proof import bundles, folders, keys, statements
from mainspring_svckit.errors import InvalidInput, MainspringError, PreconditionFailed

NAME = "projects/p/models/m/versions/3"
FILES = {
    "adapter/adapter_model.safetensors": b"weights",
    "adapter/adapter_config.json": b"{}",
    "adapter.gguf": b"GGUF",
    "training_report.json": b"{}",
}


def manifest(name: str = NAME, **changes: Any) -> bytes:
    digests = {role: hashlib.sha256(data).hexdigest() for role, data in FILES.items()}
    artifacts = {role: {"sha256": digest, "size_bytes": len(FILES[role])} for role, digest in digests.items()}
    return bundles.canonical({"name": name, "artifacts": artifacts, "licence": "MIT", **changes})


class Installation:
    """A key, and who believes it."""

    def __init__(self, folder: Path) -> None:
        self.private = folder / "key.pem"
        self.pem = keys.create_key(self.private)
        self.trusted = keys.TrustedKeys.from_pem(self.pem)
        self.signer = keys.open_signer(f"file://{self.private}", self.trusted)

    def version(self, data: bytes | None = None) -> bytes:
        return bundles.sign(statements.version_statement(data or manifest()), self.signer)

    def release(self, version: str = NAME, sha256: str = "") -> bytes:
        statement = statements.release_statement(
            release="projects/p/models/m/releases/1",
            model_version=version,
            manifest_sha256=sha256 or hashlib.sha256(manifest()).hexdigest(),
            policy="projects/p/releasePolicies/r",
            policy_sha256="ab" * 32,
            evidence={"projects/p/evaluationRuns/e": "cd" * 32},
            time=datetime(2026, 1, 1, tzinfo=UTC),
            details={"approvals": ["alice"]},
        )
        return bundles.sign(statement, self.signer)


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    return Installation(tmp_path_factory.mktemp("ours"))


@pytest.fixture
def exported(tmp_path: Path, ours: Installation) -> Path:
    folder = tmp_path / "m-3"
    folder.mkdir()
    for role, data in FILES.items():
        (folder / statements.export_path(role)).write_bytes(data)
    (folder / "model.sig").write_bytes(ours.version())
    return folder


def test_a_version_is_read_as_it_was_signed(ours: Installation) -> None:
    found = statements.read_version(bundles.verify(ours.version(), ours.trusted))
    assert (found.name, found.manifest) == (NAME, json.loads(manifest()))
    assert found.manifest_sha256 == hashlib.sha256(manifest()).hexdigest()
    assert found.key_id == hashlib.sha256(ours.pem.encode()).hexdigest()
    assert set(found.exported) == {
        "adapter_model.safetensors", "adapter_config.json", "adapter.gguf", "training_report.json",
    }  # fmt: skip


def test_a_release_is_read_as_it_was_signed(ours: Installation) -> None:
    found = statements.read_release(bundles.verify(ours.release(), ours.trusted))
    assert (found.name, found.model_version) == ("projects/p/models/m/releases/1", NAME)
    assert found.details["approvals"] == ["alice"]


def test_the_local_key_is_the_owners_alone_and_made_once(tmp_path: Path) -> None:
    first, second = keys.create_key(tmp_path / "k"), keys.create_key(tmp_path / "k")
    assert first == second
    assert stat.S_IMODE((tmp_path / "k").stat().st_mode) == 0o600


def test_f10_every_changed_bit_of_a_signed_manifest_is_refused(ours: Installation) -> None:
    good = ours.version()
    wanted = bundles.verify(good, ours.trusted)
    for place in range(len(good)):
        changed = bytearray(good)
        changed[place] ^= 1
        try:
            found = bundles.verify(bytes(changed), ours.trusted)
        except PreconditionFailed:
            continue
        # A bit of what surrounds the envelope, such as the hint, may change; what was signed may not.
        assert found == wanted


def test_a_stranger_s_signature_is_refused(ours: Installation, tmp_path: Path) -> None:
    with pytest.raises(PreconditionFailed) as caught:
        bundles.verify(Installation(tmp_path).version(), ours.trusted)
    assert caught.value.reason == "PROOF_UNTRUSTED"


def test_a_new_key_is_believed_beside_the_old_one(ours: Installation, tmp_path: Path) -> None:
    new = Installation(tmp_path)
    both = keys.TrustedKeys.from_pem(new.pem + ours.pem)
    assert {bundles.verify(one.version(), both).key_id for one in (ours, new)} == {key.keyid for key in both.keys}


def test_a_key_that_nobody_trusts_does_not_sign(ours: Installation, tmp_path: Path) -> None:
    keys.create_key(tmp_path / "k")
    with pytest.raises(InvalidInput) as caught:
        keys.open_signer(f"file://{tmp_path / 'k'}", ours.trusted)
    assert caught.value.reason == "SIGNER_INVALID"


@pytest.mark.parametrize("url", ["file:///nowhere", "awskms:alias/x", "nothing:at-all", "pkcs8", ""])
def test_a_signer_that_cannot_be_used_says_so(ours: Installation, url: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        keys.open_signer(url, ours.trusted)
    assert caught.value.reason == "SIGNER_INVALID"


@pytest.mark.parametrize("text", ["", "nothing", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----"])
def test_no_keys_are_no_trust(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        keys.TrustedKeys.from_pem(text)
    assert caught.value.reason == "KEYS_INVALID"


@given(st.binary(max_size=300) | st.from_regex(r"\{.*\}").map(str.encode))
def test_b1_bytes_that_are_no_bundle_are_refused(ours: Installation, data: bytes) -> None:
    with pytest.raises(PreconditionFailed):
        bundles.verify(data, ours.trusted)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=9),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(
                st.sampled_from(["mediaType", "dsseEnvelope", "payload", "payloadType", "signatures"]), inner
            )
        ),
        max_leaves=20,
    )
)
def test_b1_json_of_any_shape_is_refused(ours: Installation, value: Any) -> None:
    shaped = {"mediaType": bundles.MEDIA_TYPE, "dsseEnvelope": value}
    with pytest.raises(PreconditionFailed):
        bundles.verify(json.dumps(shaped).encode(), ours.trusted)


def test_b3_json_nested_without_end_is_refused(ours: Installation) -> None:
    with pytest.raises(PreconditionFailed):
        bundles.verify(b'{"mediaType":' + b"[" * 200_000, ours.trusted)


@pytest.mark.parametrize("role", ["../out", "hf//etc/passwd", "adapter/../../out", "/etc/passwd", "a\\b"])
def test_b6_a_path_that_leads_out_of_the_folder_is_refused(ours: Installation, role: str) -> None:
    artifacts = {role: {"sha256": "ab" * 32, "size_bytes": 1}}
    statement = statements.version_statement(manifest(artifacts=artifacts))
    with pytest.raises(PreconditionFailed) as caught:
        statements.read_version(statement)
    assert caught.value.reason == "PROOF_INVALID"


def test_a_release_is_no_version_and_a_version_no_release(ours: Installation) -> None:
    readers: list[tuple[Callable[[bundles.Statement], Any], bytes]] = [
        (statements.read_version, ours.release()),
        (statements.read_release, ours.version()),
    ]
    for read, bundle in readers:
        with pytest.raises(PreconditionFailed):
            read(bundles.verify(bundle, ours.trusted))


def test_a_folder_as_signed_is_proved(exported: Path, ours: Installation) -> None:
    (exported / "README.md").write_text("a card")
    (exported / "release.sig").write_bytes(ours.release())
    found = folders.verify_folder(exported, ours.trusted)
    assert (found.version.name, found.unsigned) == (NAME, ("README.md",))
    assert found.release is not None


def test_f10_one_changed_bit_in_one_file_is_refused(exported: Path, ours: Installation) -> None:
    file = exported / "adapter_model.safetensors"
    data = bytearray(file.read_bytes())
    data[0] ^= 1
    file.write_bytes(data)
    with pytest.raises(PreconditionFailed) as caught:
        folders.verify_folder(exported, ours.trusted)
    assert caught.value.reason == "FILES_DIFFER"
    assert "adapter_model.safetensors" in str(caught.value)


@pytest.mark.parametrize("more", ["modeling.py", "deep/model.safetensors", "link"])
def test_b7_files_that_nobody_signed_are_refused(exported: Path, ours: Installation, tmp_path: Path, more: str) -> None:
    file = exported / more
    file.parent.mkdir(exist_ok=True)
    if more == "link":
        file.symlink_to(tmp_path, target_is_directory=True)
    else:
        file.write_text("x")
    with pytest.raises(PreconditionFailed, match=f"nobody signed {more}") as caught:
        folders.verify_folder(exported, ours.trusted)
    assert caught.value.reason == "FILES_UNSIGNED"


def test_b6_a_link_in_the_place_of_a_file_is_refused(exported: Path, ours: Installation, tmp_path: Path) -> None:
    file = exported / "adapter.gguf"
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PreconditionFailed):
        folders.verify_folder(exported, ours.trusted)


def test_a_release_of_another_version_proves_nothing(exported: Path, ours: Installation) -> None:
    (exported / "release.sig").write_bytes(ours.release(sha256="ef" * 32))
    with pytest.raises(PreconditionFailed) as caught:
        folders.verify_folder(exported, ours.trusted)
    assert caught.value.reason == "RELEASE_DIFFERS"


def test_a_folder_without_a_manifest_says_so(tmp_path: Path, ours: Installation) -> None:
    with pytest.raises(PreconditionFailed) as caught:
        folders.verify_folder(tmp_path, ours.trusted)
    assert caught.value.reason == "PROOF_MISSING"


def test_model_signing_believes_our_folder_and_refuses_a_changed_one(exported: Path, ours: Installation) -> None:
    public = exported.parent / "key.pub"
    public.write_text(ours.pem)
    judge = verifying.Config().use_elliptic_key_verifier(public_key=public)
    judge.verify(exported, exported / "model.sig")
    (exported / "adapter.gguf").write_bytes(b"GGUG")
    with pytest.raises(ValueError, match=r"[Mm]ismatch"):
        judge.verify(exported, exported / "model.sig")


def test_errors_are_of_our_tree(ours: Installation) -> None:
    with pytest.raises(MainspringError):
        bundles.verify(b"", ours.trusted)
