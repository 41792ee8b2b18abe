"""The contracts of the artifact store: of `mainspring_svckit.ports.Artifacts`, and of what services add to it."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Protocol

import pytest

from mainspring_svckit.errors import NotFound, PreconditionFailed, QuotaExceeded
from mainspring_svckit.ports import Artifacts
from mainspring_svckit.values import ArtifactRef

Damage = Callable[[ArtifactRef], Awaitable[None]]
NOWHERE = ArtifactRef("0" * 64, 3)


class FileArtifacts(Artifacts, Protocol):
    """A store that takes files and can forget."""

    async def put_file(self, project: str, path: Path, *, media_type: str = "", filename: str = "") -> ArtifactRef:
        """Stores a file."""
        ...

    async def discard(self, project: str, artifact: ArtifactRef) -> None:
        """Removes a file."""
        ...


class StreamedArtifacts(Artifacts, Protocol):
    """A store that takes and gives streams."""

    async def put_stream(
        self,
        project: str,
        chunks: AsyncIterable[bytes],
        *,
        max_bytes: int,
        media_type: str = "",
        filename: str = "",
        before: Callable[[ArtifactRef], Awaitable[None]] | None = None,
    ) -> ArtifactRef:
        """Stores a stream."""
        ...

    def stream(self, project: str, artifact: ArtifactRef) -> AsyncIterator[bytes]:
        """Reads the bytes in order."""
        ...


async def pieces(*parts: bytes) -> AsyncIterator[bytes]:
    """A stream."""
    for part in parts:
        yield part


class ArtifactsContract:
    """What every store does.

    Subclasses give the fixtures `artifacts`, and `damage`: changes stored bytes of the project `p`.
    """

    async def test_the_same_bytes_have_the_same_address_and_come_back(self, artifacts: Artifacts) -> None:
        first = await artifacts.put_bytes("p", b"hello\x00", media_type="text/plain", filename="f.txt")
        again = await artifacts.put_bytes("p", b"hello\x00")
        other = await artifacts.put_bytes("p", b"")
        assert (first.media_type, first.filename, first.size_bytes) == ("text/plain", "f.txt", 6)
        assert first.sha256 == again.sha256 != other.sha256
        assert await artifacts.read("p", again) == b"hello\x00"
        assert await artifacts.read("p", other) == b""

    async def test_i8_another_project_does_not_see_them(self, artifacts: Artifacts) -> None:
        artifact = await artifacts.put_bytes("p", b"hello")
        assert await artifacts.exists("p", artifact)
        assert not await artifacts.exists("q", artifact)
        with pytest.raises(NotFound):
            await artifacts.read("q", artifact)

    async def test_what_is_missing_or_of_another_size_does_not_exist(self, artifacts: Artifacts) -> None:
        artifact = await artifacts.put_bytes("p", b"hello")
        assert not await artifacts.exists("p", NOWHERE)
        assert not await artifacts.exists("p", ArtifactRef(artifact.sha256, 4))
        with pytest.raises(NotFound):
            await artifacts.read("p", NOWHERE)

    async def test_f10_damaged_bytes_are_never_handed_out(self, artifacts: Artifacts, damage: Damage) -> None:
        artifact = await artifacts.put_bytes("p", b"hello")
        await damage(artifact)
        with pytest.raises(PreconditionFailed) as caught:
            await artifacts.read("p", artifact)
        assert caught.value.reason == "ARTIFACT_CORRUPT"

    async def test_large_artifacts_are_not_read_at_once(self, artifacts: Artifacts) -> None:
        with pytest.raises(QuotaExceeded):
            await artifacts.read("p", ArtifactRef("0" * 64, 1 << 40))


class FileArtifactsContract:
    """What every store of files does as well; fixtures `artifacts` and `tmp_path`."""

    async def test_a_file_is_its_bytes_and_keeps_its_name(self, artifacts: FileArtifacts, tmp_path: Path) -> None:
        path = tmp_path / "weights.bin"
        path.write_bytes(b"hello")
        stored = await artifacts.put_file("p", path)
        named = await artifacts.put_file("p", path, media_type="x/y", filename="other")
        assert stored.sha256 == named.sha256 == (await artifacts.put_bytes("p", b"hello")).sha256
        assert (stored.filename, named.filename, named.media_type) == ("weights.bin", "other", "x/y")
        path.write_bytes(b"changed later")
        assert await artifacts.read("p", stored) == b"hello"

    async def test_discarding_forgets_in_one_project_and_may_be_repeated(self, artifacts: FileArtifacts) -> None:
        artifact = await artifacts.put_bytes("p", b"hello")
        await artifacts.put_bytes("q", b"hello")
        for _ in range(2):
            await artifacts.discard("p", artifact)
        assert not await artifacts.exists("p", artifact)
        assert await artifacts.exists("q", artifact)


class StreamedArtifactsContract:
    """What every store of streams does as well; fixtures `artifacts` and `damage`."""

    async def test_a_stream_is_its_bytes(self, artifacts: StreamedArtifacts) -> None:
        streamed = await artifacts.put_stream("p", pieces(b"he", b"", b"llo"), max_bytes=5, filename="f")
        assert streamed == ArtifactRef((await artifacts.put_bytes("p", b"hello")).sha256, 5, "", "f")
        assert b"".join([chunk async for chunk in artifacts.stream("p", streamed)]) == b"hello"
        nothing = await artifacts.put_stream("p", pieces(), max_bytes=5)
        assert b"".join([chunk async for chunk in artifacts.stream("p", nothing)]) == b""

    async def test_who_wants_to_know_of_a_stream_before_it_is_there_is_told(self, artifacts: StreamedArtifacts) -> None:
        told: list[ArtifactRef] = []

        async def before(artifact: ArtifactRef) -> None:
            assert not await artifacts.exists("p", artifact)
            told.append(artifact)

        stored = await artifacts.put_stream("p", pieces(b"he", b"llo"), max_bytes=5, media_type="x/y", before=before)
        assert told == [stored]
        assert await artifacts.exists("p", stored)

    async def test_b6_a_stream_that_is_too_large_is_refused_and_not_kept(self, artifacts: StreamedArtifacts) -> None:
        whole = await artifacts.put_bytes("q", b"123456")
        with pytest.raises(QuotaExceeded) as caught:
            await artifacts.put_stream("p", pieces(b"123", b"456"), max_bytes=5)
        assert caught.value.reason == "UPLOAD_TOO_LARGE"
        assert not await artifacts.exists("p", whole)

    async def test_f10_a_damaged_stream_raises_before_it_ends(
        self, artifacts: StreamedArtifacts, damage: Damage
    ) -> None:
        artifact = await artifacts.put_bytes("p", b"hello")
        await damage(artifact)
        with pytest.raises(PreconditionFailed) as caught:
            [chunk async for chunk in artifacts.stream("p", artifact)]
        assert caught.value.reason == "ARTIFACT_CORRUPT"
        with pytest.raises(NotFound):
            [chunk async for chunk in artifacts.stream("p", NOWHERE)]
