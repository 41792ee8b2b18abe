"""Published dataset versions: rows, comparisons, cards, exports, tags, retention."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from mainspring.data.v1 import comparison_pb2, dataset_pb2, measurement_pb2
from mainspring.data.v1 import version_service_pb2 as pb
from mainspring.data.v1 import version_service_pb2_grpc as pb_grpc
from mainspring_client.connection import Area, Connection
from mainspring_svckit.errors import InvalidInput, PreconditionFailed
from mainspring_svckit.ids import new_id

_LONG_S = 3600.0
OnBytes = Callable[[int, int], None]
"""Hears how many bytes have come, of how many; 0 while that is unknown."""


class DatasetVersions(Area):
    """Client of data-ingest's published versions; `stub` is the generated one."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self.stub = pb_grpc.DatasetVersionServiceStub(connection.channel("data-ingest"))

    def rows(
        self, version: str, split: dataset_pb2.Split.ValueType = dataset_pb2.SPLIT_UNSPECIFIED, *, page_size: int = 500
    ) -> AsyncIterator[comparison_pb2.DatasetRow]:
        """The rows of a version, or of one of its splits, in order."""
        request = pb.ListDatasetRowsRequest(parent=version, split=split, page_size=page_size)
        return self._pages(self.stub.ListDatasetRows, request, pb.ListDatasetRowsResponse, lambda r: r.rows)

    async def compare(
        self, base: str, target: str, *, page_size: int = 50, page_token: str = ""
    ) -> pb.CompareDatasetVersionsResponse:
        """The counts of a comparison with one page of changes."""
        request = pb.CompareDatasetVersionsRequest(base=base, target=target, page_size=page_size, page_token=page_token)
        return await self._unary(
            self.stub.CompareDatasetVersions, request, pb.CompareDatasetVersionsResponse, timeout_s=_LONG_S
        )

    async def card(self, version: str) -> pb.GetDatasetCardResponse:
        """A version's data card and its Croissant metadata."""
        request = pb.GetDatasetCardRequest(name=version)
        return await self._unary(self.stub.GetDatasetCard, request, pb.GetDatasetCardResponse)

    async def export(
        self,
        version: str,
        folder: Path,
        form: pb.ExportDatasetVersionRequest.Format.ValueType = pb.ExportDatasetVersionRequest.FORMAT_PARQUET,
        *,
        on_bytes: OnBytes | None = None,
    ) -> list[Path]:
        """Writes a version into a folder and returns the files; each is there whole, with the right digest, or not.

        Raises:
            InvalidInput: FOLDER_NOT_EMPTY.
            PreconditionFailed: EXPORT_DAMAGED, what came is not what was announced.
        """
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InvalidInput(f"{folder} is not an empty folder; name one that is new", reason="FOLDER_NOT_EMPTY")
        writer = _FolderWriter(folder, on_bytes)
        request = pb.ExportDatasetVersionRequest(name=version, format=form)
        try:
            async for part in self._connection.caller.stream(
                self.stub.ExportDatasetVersion, request, pb.ExportDatasetVersionResponse, timeout_s=_LONG_S
            ):
                if part.HasField("file"):
                    writer.begin(part.file)
                else:
                    writer.write(part.chunk)
            writer.end()
        finally:
            writer.abandon()
        return writer.files

    async def measure(
        self, version: str, *, reference: str = "", embedding_model: str = ""
    ) -> measurement_pb2.DatasetMeasurement:
        """How different a version's rows are, and how near they come to a reference.

        Args:
            version: The version.
            reference: The version whose test split is the use case.
            embedding_model: Model or model version that makes the vectors; lexical ones when empty.
        """
        request = pb.MeasureDatasetVersionRequest(
            name=version, reference=reference, embedding_model_version=embedding_model
        )
        response = await self._unary(
            self.stub.MeasureDatasetVersion, request, pb.MeasureDatasetVersionResponse, timeout_s=_LONG_S
        )
        return response.measurement

    async def tag(self, dataset: str, tag: str, version: str) -> dataset_pb2.Dataset:
        """Gives a tag to a version; takes it away when `version` is empty."""
        request = pb.SetDatasetTagRequest(dataset=dataset, tag=tag, dataset_version=version, request_id=new_id())
        return (await self._unary(self.stub.SetDatasetTag, request, pb.SetDatasetTagResponse)).dataset

    async def retain(self, dataset: str, keep_newest: int) -> dataset_pb2.Dataset:
        """Says how many of a dataset's newest versions are kept; 0 keeps all."""
        request = pb.SetDatasetRetentionRequest(dataset=dataset, keep_newest=keep_newest, request_id=new_id())
        return (await self._unary(self.stub.SetDatasetRetention, request, pb.SetDatasetRetentionResponse)).dataset


class _FolderWriter:
    """Writes files as they come; one that is not whole has another name."""

    def __init__(self, folder: Path, on_bytes: OnBytes | None) -> None:
        self._folder, self._on_bytes = folder, on_bytes
        self._open: BinaryIO | None = None
        self._expected = pb.ExportedFile()
        self._hasher = hashlib.sha256()
        self._done = self._total = 0
        self.files: list[Path] = []

    def begin(self, file: pb.ExportedFile) -> None:
        self.end()
        path = PurePosixPath(file.path)
        # What a server says must not lead out of the folder.
        if path.is_absolute() or not path.parts or any(part in {"..", ""} or "\\" in part for part in path.parts):
            raise PreconditionFailed("EXPORT_DAMAGED", f"the server named a file {file.path!r}, which is no place here")
        target = self._folder.joinpath(*path.parts)
        target.parent.mkdir(parents=True, exist_ok=True)
        self._total = self._total or file.total_bytes
        self._expected, self._hasher = file, hashlib.sha256()
        self._open = self._partial(target).open("wb")
        self.files.append(target)

    def write(self, chunk: bytes) -> None:
        if self._open is None:
            raise PreconditionFailed("EXPORT_DAMAGED", "the server sent bytes of no file")
        self._open.write(chunk)
        self._hasher.update(chunk)
        self._done += len(chunk)
        if self._on_bytes is not None:
            self._on_bytes(self._done, max(self._total, self._done) if self._total else 0)

    def end(self) -> None:
        if self._open is None:
            return
        self._open.close()
        self._open = None
        target = self.files[-1]
        if self._hasher.hexdigest() != self._expected.sha256:
            self._partial(target).unlink()
            raise PreconditionFailed("EXPORT_DAMAGED", f"{self._expected.path} came damaged; export again")
        self._partial(target).rename(target)

    def abandon(self) -> None:
        if self._open is not None:
            self._open.close()
            self._partial(self.files.pop()).unlink(missing_ok=True)

    @staticmethod
    def _partial(target: Path) -> Path:
        return target.with_name(f".{target.name}.partial")
