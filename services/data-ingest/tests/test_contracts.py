"""The refiner by one suite, over the fake and over the real child process."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from mainspring_data_ingest.adapters.refiner import ChildRefiner
from mainspring_data_ingest.application.ports import Refiner
from mainspring_data_ingest.domain.columns import ColumnMapping
from mainspring_data_ingest.domain.ingestions import Ingestion, Source, SourceFormat
from mainspring_data_ingest.domain.recipes import IngestionRecipe
from mainspring_data_ingest.domain.records import RefusalReason
from mainspring_svckit.artifacts import ArtifactStore
from mainspring_svckit.errors import NotFound
from mainspring_svckit.scratch import Scratch
from mainspring_svckit.values import ArtifactRef, Progress
from mainspring_testkit.fakes import FakeArtifacts, FakeClock

from .fakes import FakeRefiner

RECIPE = IngestionRecipe("projects/p/ingestionRecipes/r", "projects/p/datasets/d", ColumnMapping("in", "out"))
ROWS = b'{"in": "question", "out": "answer"}\n{"in": "", "out": ""}\n'
Put = Callable[[bytes], Awaitable[ArtifactRef]]


def work(*sources: ArtifactRef) -> Ingestion:
    read = tuple(Source(source, SourceFormat.JSONL) for source in sources)
    return Ingestion("projects/p/ingestions/i", RECIPE, read, "cycle", FakeClock().now())


class RefinerContract:
    """What every refiner does; fixtures `refiner`, and `put`, which stores a source.

    The fake keeps one row a source and refuses one empty row, so the sources here are like that.
    """

    async def test_every_row_is_accounted_for_and_the_files_are_there_until_the_block_ends(
        self, refiner: Refiner, put: Put
    ) -> None:
        told: list[Progress] = []

        async def hear(progress: Progress) -> None:
            told.append(progress)

        async with refiner.refine(work(await put(ROWS)), {}, hear) as refined:
            assert sum(shard.rows for shard in refined.shards) == 1
            assert refined.tally.input_rows == 2
            assert refined.tally.refusals == {RefusalReason.EMPTY: 1}
            assert refined.refused is not None
            files = [refined.refused, *(shard.path for shard in refined.shards)]
            assert all(path.stat().st_size for path in files)
        assert not any(path.exists() for path in files)
        assert told
        assert {progress.unit for progress in told} == {"rows"}

    async def test_i7_the_same_sources_give_the_same_digests(self, refiner: Refiner, put: Put) -> None:
        seen: list[list[str]] = []
        for rows in (ROWS, ROWS, ROWS.replace(b"answer", b"another")):
            async with refiner.refine(work(await put(rows)), {}, _ignore) as refined:
                seen.append([shard.rows_sha256 for shard in refined.shards])
        assert seen[0] == seen[1] != seen[2]

    async def test_a_source_that_is_not_there_is_not_found(self, refiner: Refiner) -> None:
        with pytest.raises(NotFound):
            async with refiner.refine(work(ArtifactRef("0" * 64, 3)), {}, _ignore):
                pytest.fail("there is nothing to refine")


async def _ignore(progress: Progress) -> None:
    """For who does not want to know."""


class TestFakeRefiner(RefinerContract):
    @pytest.fixture
    def store(self) -> FakeArtifacts:
        return FakeArtifacts()

    @pytest.fixture
    def refiner(self, tmp_path: Path, store: FakeArtifacts) -> Refiner:
        return FakeRefiner(tmp_path, store)

    @pytest.fixture
    def put(self, store: FakeArtifacts) -> Put:
        return lambda data: store.put_bytes("p", data)


class TestChildRefiner(RefinerContract):
    @pytest.fixture
    def refiner(self, artifact_url: str, tmp_path: Path) -> Refiner:
        return ChildRefiner(ArtifactStore(artifact_url), Scratch("ingestion", tmp_path / "scratch"))

    @pytest.fixture
    def put(self, artifact_url: str) -> Put:
        return lambda data: ArtifactStore(artifact_url).put_bytes("p", data)
