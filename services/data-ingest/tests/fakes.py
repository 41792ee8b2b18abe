"""The fakes of this service's own ports; each passes the contract suite of its port."""

import hashlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from mainspring_data_ingest.application.files import UploadPorts, Uploads, refused_line
from mainspring_data_ingest.application.ports import OnProgress, Refined, RefinedShard, StepFiles
from mainspring_data_ingest.domain.datasets import Tally
from mainspring_data_ingest.domain.ingestions import Ingestion
from mainspring_data_ingest.domain.records import RefusalReason, RefusedRow
from mainspring_data_ingest.domain.report import Report, TextStatistics
from mainspring_data_ingest.domain.splits import Split
from mainspring_data_ingest.domain.uploads import Upload
from mainspring_svckit.values import Progress
from mainspring_testkit.fakes import FakeArtifacts, FakeClock, FakeRepository, FakeTransactions


class FakeRefiner:
    """Keeps one row a source."""

    def __init__(self, folder: Path, files: FakeArtifacts) -> None:
        self.folder, self.files = folder, files
        self.failure: Exception | None = None
        self.seen: list[Ingestion] = []
        self.meanwhile: Any = None
        self.step_files: dict[int, StepFiles] = {}

    @asynccontextmanager
    async def refine(
        self, work: Ingestion, files: Mapping[int, StepFiles], on_progress: OnProgress
    ) -> AsyncIterator[Refined]:
        self.seen.append(work)
        self.step_files = dict(files)
        for source in work.sources:
            await self.files.read("p", source.artifact)
        await on_progress(Progress(done=1, unit="rows", phase="reading"))
        if self.failure is not None:
            raise self.failure
        if self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            await meanwhile()
        shards: list[RefinedShard] = []
        for number, source in enumerate(work.sources):
            path = self.folder / f"train-{number}.parquet"
            path.write_text(source.artifact.sha256)
            shards.append(RefinedShard(Split.TRAIN, path, 1, hashlib.sha256(path.read_bytes()).hexdigest()))
        refused = self.folder / "refused.jsonl"
        refused.write_bytes(refused_line(RefusedRow(0, 2, RefusalReason.EMPTY, "empty", "x")))
        tally = Tally({Split.TRAIN: len(shards)}, {RefusalReason.EMPTY: 1})
        texts = TextStatistics().report()
        report = Report(tally.input_rows, len(shards), 0, {RefusalReason.EMPTY: 1}, (), texts, texts)
        yield Refined(tuple(shards), refused, tally, report)
        for path in (refused, *(shard.path for shard in shards)):
            path.unlink()


def uploads(files: FakeArtifacts, max_bytes: int = 1 << 20) -> Uploads:
    """Uploads to a store of fakes."""
    repository = FakeRepository[Upload](parent=lambda u: f"projects/{u.project}", sort_key=lambda u: u.name)
    return Uploads(UploadPorts(files, FakeTransactions(), repository, FakeClock()), max_bytes)
