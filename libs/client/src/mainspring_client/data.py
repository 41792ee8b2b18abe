"""Files, ingestions, datasets."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import BinaryIO

from mainspring.common.v1 import artifact_pb2
from mainspring.data.v1 import data_service_pb2 as pb
from mainspring.data.v1 import (
    data_service_pb2_grpc,
    dataset_pb2,
    ingestion_pb2,
    recipe_pb2,
    source_pb2,
    source_service_pb2,
    source_service_pb2_grpc,
)
from mainspring_client.connection import Area, Connection
from mainspring_svckit.errors import InvalidInput
from mainspring_svckit.ids import new_id
from mainspring_svckit.names import ProjectName

CHUNK_BYTES = 1 << 20


class Data(Area):
    """Client of data-ingest; `stub` is the generated one."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self.stub = data_service_pb2_grpc.DataServiceStub(connection.channel("data-ingest"))
        self.source_stub = source_service_pb2_grpc.SourceServiceStub(connection.channel("data-ingest"))

    async def upload(
        self,
        project: str,
        path: Path,
        *,
        filename: str = "",
        timeout_s: float = 3600,
        on_sent: Callable[[int], None] = lambda _: None,
    ) -> artifact_pb2.Artifact:
        """Stores a file. The same bytes give the same artifact, so a repeat is harmless.

        Args:
            project: Whose file.
            path: Where it is.
            filename: Name to show; that of the path when empty.
            timeout_s: Longest time for all of it.
            on_sent: Hears how many bytes are sent.

        Raises:
            InvalidInput: FILE_UNREADABLE, there is no such file here; FILE_CHANGED, somebody wrote it meanwhile.
        """
        parent, shown = str(ProjectName(project)), filename or path.name

        async def messages() -> AsyncIterator[pb.UploadArtifactRequest]:
            with path.open("rb") as file:
                before = _state(file)
                chunk = file.read(CHUNK_BYTES)
                yield pb.UploadArtifactRequest(parent=parent, filename=shown, chunk=chunk)
                while chunk := file.read(CHUNK_BYTES):
                    on_sent(file.tell())
                    yield pb.UploadArtifactRequest(chunk=chunk)
                on_sent(file.tell())
                changed.append(_state(file) != before)

        changed: list[bool] = []
        if not path.is_file():
            raise InvalidInput(f"{path} is not a file that can be read; check the path", reason="FILE_UNREADABLE")
        response = await self._client_stream(self.stub.UploadArtifact, messages, pb.UploadArtifactResponse, timeout_s)
        if changed[-1]:
            message = f"{path} changed while it was read; wait until it is written, then run the command again"
            raise InvalidInput(message, reason="FILE_CHANGED")
        return response.artifact

    async def preview(
        self,
        project: str,
        artifact: artifact_pb2.Artifact,
        *,
        columns: recipe_pb2.ColumnMapping | None = None,
        records: int = 0,
    ) -> source_pb2.SourcePreview:
        """The beginning of a source: its format and shape, the columns that this proposes, and what would be refused.

        Args:
            project: Whose source.
            artifact: Its bytes; the file name helps to recognise the format.
            columns: Where the text is; None to go by the shape.
            records: Records to return; 0 for a few.

        Raises:
            InvalidInput: It cannot be read; the reason says why.
        """
        request = source_service_pb2.PreviewSourceRequest(
            parent=str(ProjectName(project)), artifact=artifact, columns=columns, record_count=records
        )
        response = await self._unary(
            self.source_stub.PreviewSource, request, source_service_pb2.PreviewSourceResponse, timeout_s=150
        )
        return response.preview

    async def fetch(
        self,
        project: str,
        *,
        uri: str = "",
        connection: str = "",
        sql: str = "",
        feedback: source_service_pb2.FeedbackQuery | None = None,
        timeout_s: float = 3600,
    ) -> AsyncIterator[source_service_pb2.FetchSourceResponse]:
        """Has the server copy what lies elsewhere, file by file; what it may reach is a matter of its settings.

        Args:
            project: Whose sources.
            uri: Objects (`s3://`, `gs://`, `az://`) or a file by `https://`; or else:
            connection: Name of a database in the server's settings.
            sql: What is asked of it.
            feedback: Which of the project's judged answers; or else the former.
            timeout_s: Longest time for all of it.

        Raises:
            InvalidInput: SOURCE_NOT_ALLOWED.
        """
        request = source_service_pb2.FetchSourceRequest(parent=str(ProjectName(project)))
        if feedback is not None:
            request.feedback.CopyFrom(feedback)
        elif uri:
            request.uri = uri
        else:
            request.query.CopyFrom(source_service_pb2.DatabaseQuery(connection=connection, sql=sql))
        responses = self._connection.caller.stream(
            self.source_stub.FetchSource, request, source_service_pb2.FetchSourceResponse, timeout_s=timeout_s
        )
        async for response in responses:
            yield response

    async def recipe(self, name: str) -> recipe_pb2.IngestionRecipe:
        """An ingestion recipe."""
        request = pb.GetIngestionRecipeRequest(name=name)
        return (
            await self._unary(self.stub.GetIngestionRecipe, request, pb.GetIngestionRecipeResponse)
        ).ingestion_recipe

    def recipes(self, project: str) -> AsyncIterator[recipe_pb2.IngestionRecipe]:
        """A project's ingestion recipes by name."""
        request = pb.ListIngestionRecipesRequest(parent=str(ProjectName(project)))
        return self._pages(
            self.stub.ListIngestionRecipes, request, pb.ListIngestionRecipesResponse, lambda r: r.ingestion_recipes
        )

    async def recipe_version(self, name: str) -> recipe_pb2.IngestionRecipeVersion:
        """A recipe as it stood in one of its versions."""
        request = pb.GetIngestionRecipeVersionRequest(name=name)
        kind = pb.GetIngestionRecipeVersionResponse
        return (await self._unary(self.stub.GetIngestionRecipeVersion, request, kind)).ingestion_recipe_version

    def recipe_versions(self, recipe: str) -> AsyncIterator[recipe_pb2.IngestionRecipeVersion]:
        """Every version of a recipe, newest first."""
        request = pb.ListIngestionRecipeVersionsRequest(parent=recipe)
        return self._pages(
            self.stub.ListIngestionRecipeVersions,
            request,
            pb.ListIngestionRecipeVersionsResponse,
            lambda r: r.ingestion_recipe_versions,
        )

    async def ingest(
        self, recipe: str, sources: Iterable[ingestion_pb2.Source], *, request_id: str = ""
    ) -> ingestion_pb2.Ingestion:
        """Asks for a dataset version; returns at once, follow it with `watch_ingestion`.

        Args:
            recipe: `projects/{project}/ingestionRecipes/{recipe}`, as it stands, or one of its versions.
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

    def changed_rows(self, version: str) -> AsyncIterator[dataset_pb2.ChangedRow]:
        """The rows of a version that the recipe's steps have changed, in input order."""
        request = pb.ListChangedRowsRequest(parent=version, page_size=500)
        return self._pages(self.stub.ListChangedRows, request, pb.ListChangedRowsResponse, lambda r: r.changed_rows)


def _state(file: BinaryIO) -> tuple[int, int]:
    found = os.fstat(file.fileno())
    return found.st_size, found.st_mtime_ns
