"""Splits: what data-ingest says of a version, its manifest, and its Parquet shards in the artifact store."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from mainspring.data.v1 import data_service_pb2 as pb
from mainspring.data.v1 import data_service_pb2_grpc as pb_grpc
from mainspring_evaluator.application.ports import Row, SplitRows
from mainspring_evaluator.domain.suites import Split
from mainspring_svckit.artifacts import ArtifactStore
from mainspring_svckit.errors import MainspringError, PreconditionFailed, Unavailable
from mainspring_svckit.grpc_client import Caller
from mainspring_svckit.mapping import artifact_from_proto
from mainspring_svckit.names import DatasetVersionName
from mainspring_svckit.values import ArtifactRef, Message

MANIFEST_SCHEMA = "mainspring.dataset.v1"
_BATCH_ROWS = 1_000

Rows = Sequence[Row]
_PLACES = ("line", "source_index")


class StoredDatasets:
    """`Datasets` by way of `DataService` and the artifact store."""

    def __init__(self, channel: grpc.aio.Channel, caller: Caller, store: ArtifactStore, scratch: Path | None) -> None:
        """Takes where to ask, where files are, and a folder for temporary files (None for the system's)."""
        self._stub: Any = pb_grpc.DataServiceStub(channel)
        self._caller, self._store, self._scratch = caller, store, scratch

    async def read(self, dataset_version: str, split: Split) -> SplitRows:
        project = DatasetVersionName.parse(dataset_version).project
        request = pb.GetDatasetVersionRequest(name=dataset_version)
        with _unreadable(dataset_version):
            answer = await self._caller.unary(self._stub.GetDatasetVersion, request, pb.GetDatasetVersionResponse)
            version = answer.dataset_version
            manifest: Any = json.loads(await self._store.read(project, artifact_from_proto(version.manifest)))
            if manifest["schema"] != MANIFEST_SCHEMA:
                raise ValueError(f"its manifest has the schema {manifest['schema']!r}")
            shards = [
                ArtifactRef(str(shard["sha256"]), int(shard["size_bytes"]))
                for shard in manifest["splits"].get(split.value, [])
            ]
            return SplitRows(str(manifest["root_sha256"]), self._rows(dataset_version, project, shards))

    async def _rows(self, name: str, project: str, shards: Sequence[ArtifactRef]) -> AsyncIterator[Rows]:
        """One shard after another by way of a file, so that memory holds a batch and not a shard."""
        with (
            tempfile.TemporaryDirectory(prefix="mainspring-evaluation-", dir=self._scratch) as folder,
            _unreadable(name),
        ):
            for shard in shards:
                path = await self._store.fetch(project, shard, Path(folder) / "shard.parquet")
                batches = await asyncio.to_thread(_batches, path)
                while (rows := await asyncio.to_thread(next, batches, None)) is not None:
                    yield rows
                path.unlink()


def _batches(path: Path) -> Iterator[Rows]:
    """The messages of a shard's rows."""
    import pyarrow.parquet as pq  # Loaded by the thread that reads: it takes long and much memory.

    with pq.ParquetFile(path) as file:
        if "messages" not in file.schema_arrow.names:
            raise ValueError("a shard has no column 'messages'")
        columns = ["messages", *(name for name in _PLACES if name in file.schema_arrow.names)]
        for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=columns):
            yield [_row(values) for values in batch.to_pylist()]


def _row(values: dict[str, Any]) -> Row:
    turns = [Message(str(turn["role"]), str(turn["content"])) for turn in values["messages"] or ()]
    return Row(turns, f"line {values['line']} of source {values['source_index']}" if "line" in values else "row")


@contextmanager
def _unreadable(name: str) -> Iterator[None]:
    """Whatever is wrong with a dataset becomes one reason; what may pass stays as it is."""
    try:
        yield
    except Unavailable:
        raise
    except (MainspringError, ValueError, TypeError, KeyError, AttributeError, OSError) as err:
        words = err.message if isinstance(err, MainspringError) else f"{type(err).__name__}: {err}"
        message = f"{name} cannot be read: {words}"
        raise PreconditionFailed("DATASET_UNREADABLE", message, {"datasetVersion": name}) from err
