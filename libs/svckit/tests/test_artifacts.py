import asyncio
import errno
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from mainspring_svckit.artifacts import ArtifactStore
from mainspring_svckit.errors import InsufficientStorage, PreconditionFailed, QuotaExceeded
from mainspring_svckit.values import ArtifactRef


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "artifacts"


@pytest.fixture
def store(root: Path) -> ArtifactStore:
    return ArtifactStore(f"file://{root}")


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


def stored_file(root: Path, artifact: ArtifactRef, project: str = "p") -> Path:
    return root / "projects" / project / "sha256" / artifact.sha256[:2] / artifact.sha256


async def test_the_same_bytes_have_the_same_address(store: ArtifactStore, tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"hello")
    by_bytes = await store.put_bytes("p", b"hello")
    by_file = await store.put_file("p", path)
    by_stream = await store.put_stream("p", chunks(b"he", b"llo"), max_bytes=5)
    assert by_bytes.sha256 == by_file.sha256 == by_stream.sha256
    assert await store.read("p", by_stream) == b"hello"


async def test_f10_flipped_bits_are_found_on_read(store: ArtifactStore, root: Path, tmp_path: Path) -> None:
    artifact = await store.put_bytes("p", b"hello")
    stored_file(root, artifact).write_bytes(b"hellO")
    with pytest.raises(PreconditionFailed, match="does not hold"):
        await store.read("p", artifact)
    target = tmp_path / "cache" / "f"
    with pytest.raises(PreconditionFailed):
        await store.fetch("p", artifact, target)
    assert list(target.parent.iterdir()) == []


async def test_f10_a_flipped_local_copy_is_fetched_again(store: ArtifactStore, tmp_path: Path) -> None:
    artifact = await store.put_bytes("p", b"hello")
    target = await store.fetch("p", artifact, tmp_path / "copy")
    target.write_bytes(b"hellO")
    assert (await store.fetch("p", artifact, target)).read_bytes() == b"hello"


async def test_b6_an_upload_that_is_too_large_leaves_nothing(store: ArtifactStore, root: Path) -> None:
    with pytest.raises(QuotaExceeded):
        await store.put_stream("p", chunks(b"x" * 6, b"y" * 6), max_bytes=10)
    assert [path for path in root.rglob("*") if path.is_file()] == []


async def test_f9_a_full_disk_has_a_name(store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("obstore.put_async", full)
    with pytest.raises(InsufficientStorage):
        await store.put_bytes("p", b"hello")


async def test_concurrent_writers_of_the_same_bytes_agree(store: ArtifactStore) -> None:
    data = b"z" * 3_000_000
    refs = await asyncio.gather(*(store.put_bytes("p", data) for _ in range(8)))
    assert len(set(refs)) == 1
    assert await store.read("p", refs[0]) == data
