"""Large files against their digests, beside what else happens."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mainspring_registry.adapters.comparing import KEEP_S, Comparing
from mainspring_svckit.artifacts import ArtifactStore
from mainspring_svckit.errors import Unavailable
from mainspring_svckit.values import ArtifactRef
from mainspring_testkit.fakes import FakeArtifacts
from mainspring_testkit.waiting import eventually


class SlowStore(FakeArtifacts):
    """Counts what is read; gives nothing out until it may, and nothing at all while it is away."""

    def __init__(self) -> None:
        super().__init__()
        self.read_digests: list[str] = []
        self.at_once, self.most_at_once = 0, 0
        self.may_read = asyncio.Event()
        self.may_read.set()
        self.away = False

    async def stream(self, project: str, artifact: ArtifactRef) -> AsyncIterator[bytes]:
        self.read_digests.append(artifact.sha256)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await self.may_read.wait()
            if self.away:
                raise Unavailable("ARTIFACT_STORE_UNAVAILABLE", "away")
            async for chunk in super().stream(project, artifact):
                yield chunk
        finally:
            self.at_once -= 1


class Clock:
    time = 0.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def store() -> SlowStore:
    return SlowStore()


@pytest.fixture
async def file(store: SlowStore) -> ArtifactRef:
    return await store.put_bytes("p", b"weights")


async def test_f10_a_file_that_takes_too_long_is_read_on_and_known_at_the_next_decision(
    store: SlowStore, file: ArtifactRef
) -> None:
    comparing = Comparing(store, wait_s=0)
    store.damage(file)
    store.may_read.clear()
    for _ in range(3):
        await comparing.look("p", [file])
        assert not comparing.is_damaged("p", file), "nobody knows yet, and nobody waits for ever"
    store.may_read.set()

    async def known() -> bool:
        return comparing.is_damaged("p", file)

    await eventually(known, what="the file to be read to its end")
    assert store.read_digests == [file.sha256], "whoever asks meanwhile waits for the same reading"
    assert not comparing.is_damaged("q", file)


async def test_f10_a_damaged_file_is_read_anew_by_every_decision_and_a_whole_one_now_and_then(
    store: SlowStore, file: ArtifactRef
) -> None:
    clock = Clock()
    comparing, whole = Comparing(store, wait_s=10, now=clock), dict(store.files)
    store.damage(file)
    for _ in range(2):
        await comparing.look("p", [file])
        assert comparing.is_damaged("p", file)
    store.files.update(whole)
    for _ in range(3):
        await comparing.look("p", [file, file])
        assert not comparing.is_damaged("p", file)
    assert len(store.read_digests) == 3
    store.damage(file)
    clock.time = KEEP_S
    await comparing.look("p", [file])
    assert comparing.is_damaged("p", file)
    await store.discard("p", file)
    await comparing.look("p", [file])
    assert comparing.is_damaged("p", file), "what is lost is not whole"


async def test_f10_a_store_that_is_away_says_nothing_of_a_file(store: SlowStore, file: ArtifactRef) -> None:
    comparing = Comparing(store, wait_s=10)
    store.away = True
    await comparing.look("p", [file])
    assert not comparing.is_damaged("p", file)
    store.away = False
    store.damage(file)
    await comparing.look("p", [file])
    assert comparing.is_damaged("p", file)


async def test_few_files_are_read_at_a_time(store: SlowStore) -> None:
    comparing = Comparing(store, wait_s=10)
    files = [await store.put_bytes("p", str(number).encode()) for number in range(8)]
    store.may_read.clear()
    looking = asyncio.create_task(comparing.look("p", files))

    async def several() -> bool:
        return store.at_once > 1

    await eventually(several, what="files to be read at once")
    store.may_read.set()
    await looking
    assert (len(store.read_digests), store.most_at_once) == (8, 2)
    await comparing.look("p", files)
    assert len(store.read_digests) == 8


async def test_f10_one_flipped_bit_on_disk_is_found(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path.as_uri())
    file, other = [await store.put_bytes("p", bytes([number]) * (3 << 20)) for number in (1, 2)]
    path = next(tmp_path.rglob(file.sha256))
    with path.open("r+b") as opened:
        opened.seek(2 << 20)
        opened.write(b"\x03")
    comparing = Comparing(store, wait_s=10)
    await comparing.look("p", [file, other])
    assert (comparing.is_damaged("p", file), comparing.is_damaged("p", other)) == (True, False)
