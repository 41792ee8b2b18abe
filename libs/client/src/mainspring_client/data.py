"""Files, ingestions, datasets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from pathlib import Path

from mainspring.common.v1 import artifact_pb2
from mainspring.data.v1 import data_service_pb2 as pb
from mainspring.data.v1 import data_service_pb2_grpc, dataset_pb2, ingestion_pb2
from mainspring_client.connection import Area, Connection
from mainspring_svckit.errors import InvalidInput
from mainspring_svckit.ids import new_id
from mainspring_svckit.names import ProjectName

CHUNK_BYTES = 1 << 20
FORMATS = {
    ".jsonl": ingestion_pb2.Source.FORMAT_JSONL,
    ".ndjson": ingestion_pb2.Source.FORMAT_JSONL,
    ".csv": ingestion_pb2.Source.FORMAT_CSV,
}


class Data(Area):
    """Client of data-ingest; `stub` is the generated one."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self.stub = data_service_pb2_grpc.DataServiceStub(connection.channel("data-ingest"))

    async def upload(
        self, project: str, path: Path, *, filename: str = "", timeout_s: float = 3600
    ) -> artifact_pb2.Artifact:
        """Stores a file. The same bytes give the same artifact, so a repeat is harmless.

        Raises:
            InvalidInput: FILE_UNREADABLE, there is no such file here.
        """
        parent, shown = str(ProjectName(project)), filename or path.name

        async def messages() -> AsyncIterator[pb.UploadArtifactRequest]:
            with path.open("rb") as file:
                chunk = file.read(CHUNK_BYTES)
                yield pb.UploadArtifactRequest(parent=parent, filename=shown, chunk=chunk)
                while chunk := file.read(CHUNK_BYTES):
                    yield pb.UploadArtifactRequest(chunk=chunk)

        if not path.is_file():
            raise InvalidInput(f"{path} is not a file that can be read; check the path", reason="FILE_UNREADABLE")
        response = await self._client_stream(self.stub.UploadArtifact, messages, pb.UploadArtifactResponse, timeout_s)
        return response.artifact

    async def ingest(
        self, recipe: str, sources: Iterable[ingestion_pb2.Source], *, request_id: str = ""
    ) -> ingestion_pb2.Ingestion:
        """Asks for a dataset version; returns at once, follow it with `watch_ingestion`.

        Args:
            recipe: `projects/{project}/ingestionRecipes/{recipe}`.
            sources: What to read, in order.
            request_id: UUID under which a repeat is one; made when empty.
        """
        project = "/".join(recipe.split("/")[:2])
        request = pb.CreateIngestionRequest(
            parent=project, ingestion_recipe=recipe, sources=sources, request_id=request_id or new_id()
        )
        return (await self._unary(self.stub.CreateIngestion, request, pb.CreateIngestionResponse)).ingestion

    async def watch_ingestion(self, name: str) -> AsyncIterator[ingestion_pb2.Ingestion]:
        """The ingestion now and after each change, until it has ended."""
        request = pb.WatchIngestionRequest(name=name)
        async for response in self._watch(self.stub.WatchIngestion, request, pb.WatchIngestionResponse):
            yield response.ingestion

    async def cancel_ingestion(self, name: str) -> ingestion_pb2.Ingestion:
        """Cancels an ingestion that has not ended."""
        request = pb.CancelIngestionRequest(name=name, request_id=new_id())
        return (await self._unary(self.stub.CancelIngestion, request, pb.CancelIngestionResponse)).ingestion

    def ingestions(self, project: str) -> AsyncIterator[ingestion_pb2.Ingestion]:
        """A project's ingestions, newest first."""
        request = pb.ListIngestionsRequest(parent=str(ProjectName(project)))
        return self._pages(self.stub.ListIngestions, request, pb.ListIngestionsResponse, lambda r: r.ingestions)

    def datasets(self, project: str) -> AsyncIterator[dataset_pb2.Dataset]:
        """A project's datasets by name."""
        request = pb.ListDatasetsRequest(parent=str(ProjectName(project)))
        return self._pages(self.stub.ListDatasets, request, pb.ListDatasetsResponse, lambda r: r.datasets)

    async def dataset(self, name: str) -> dataset_pb2.Dataset:
        """A dataset."""
        request = pb.GetDatasetRequest(name=name)
        return (await self._unary(self.stub.GetDataset, request, pb.GetDatasetResponse)).dataset

    def versions(self, dataset: str) -> AsyncIterator[dataset_pb2.DatasetVersion]:
        """A dataset's versions, newest first."""
        request = pb.ListDatasetVersionsRequest(parent=dataset)
        return self._pages(
            self.stub.ListDatasetVersions, request, pb.ListDatasetVersionsResponse, lambda r: r.dataset_versions
        )

    async def version(self, name: str) -> dataset_pb2.DatasetVersion:
        """A dataset version with its account of every row."""
        request = pb.GetDatasetVersionRequest(name=name)
        return (await self._unary(self.stub.GetDatasetVersion, request, pb.GetDatasetVersionResponse)).dataset_version

    async def report(self, version: str, *, plot: bool = False) -> pb.GetDatasetReportResponse:
        """A version's report: what became of every row; with a PNG picture when asked for."""
        request = pb.GetDatasetReportRequest(name=version, plot=plot)
        return await self._unary(self.stub.GetDatasetReport, request, pb.GetDatasetReportResponse)

    def refused_rows(self, version: str) -> AsyncIterator[dataset_pb2.RefusedRow]:
        """The input rows that a version refused, in input order."""
        request = pb.ListRefusedRowsRequest(parent=version, page_size=500)
        return self._pages(self.stub.ListRefusedRows, request, pb.ListRefusedRowsResponse, lambda r: r.refused_rows)


def format_of(path: Path) -> ingestion_pb2.Source.Format.ValueType:
    """How a file is read, by its ending.

    Raises:
        InvalidInput: FILE_FORMAT_UNKNOWN.
    """
    try:
        return FORMATS[path.suffix.lower()]
    except KeyError:
        raise InvalidInput(
            f"{path.name}: the ending says nothing about the format; use one of {', '.join(FORMATS)}",
            reason="FILE_FORMAT_UNKNOWN",
        ) from None
