"""`mainspring.data.v1.DataService`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from mainspring.data.v1 import data_service_pb2 as pb
from mainspring.data.v1 import data_service_pb2_grpc as pb_grpc
from mainspring_data_ingest.application.files import ChangedRows, RefusedRows, Uploads
from mainspring_data_ingest.application.ingestions import Ingestions
from mainspring_data_ingest.application.ports import Ports
from mainspring_data_ingest.application.recipes import Recipes
from mainspring_data_ingest.application.reports import Reports
from mainspring_data_ingest.domain.ingestions import INGESTION_STATES, Ingestion
from mainspring_data_ingest.transport import mapping
from mainspring_data_ingest.transport.reports import report_to_proto
from mainspring_svckit.database import Listener
from mainspring_svckit.errors import InvalidInput
from mainspring_svckit.grpc_server import visible_project
from mainspring_svckit.ids import new_id
from mainspring_svckit.mapping import artifact_to_proto
from mainspring_svckit.names import ProjectName
from mainspring_svckit.pagination import Page, next_page_token
from mainspring_svckit.reading import Reader
from mainspring_svckit.watching import follow

NAME = "mainspring.data.v1.DataService"
UPLOAD_IDLE_S = 60.0
"""Longest silence of a caller who uploads; then the call ends with DEADLINE_EXCEEDED and nothing is kept."""


class DataServicer(pb_grpc.DataServiceServicer):
    """Translates; every decision is made in the use cases."""

    def __init__(
        self, ports: Ports, uploads: Uploads, ingestions: Ingestions, reports: Reports, listener: Listener
    ) -> None:
        self._reports = reports
        self._ports, self._uploads, self._ingestions, self._listener = ports, uploads, ingestions, listener
        self._recipes, self._refused, self._changed = Recipes(ports), RefusedRows(ports), ChangedRows(ports)
        self._reader = Reader(ports.transactions)

    async def UploadArtifact(
        self, request_iterator: AsyncIterator[pb.UploadArtifactRequest], context: Any
    ) -> pb.UploadArtifactResponse:
        first = await _next(request_iterator)
        if first is None:
            raise InvalidInput("send at least one message, which names the project", reason="UPLOAD_EMPTY")
        project = visible_project(ProjectName.parse(first.parent, "parent").project)

        async def chunks() -> AsyncIterator[bytes]:
            message: pb.UploadArtifactRequest | None = first
            while message is not None:
                yield message.chunk
                message = await _next(request_iterator)

        stored = await self._uploads.store(project, first.filename, chunks())
        return pb.UploadArtifactResponse(artifact=artifact_to_proto(stored))

    async def UpdateIngestionRecipe(
        self, request: pb.UpdateIngestionRecipeRequest, context: Any
    ) -> pb.UpdateIngestionRecipeResponse:
        stored = await self._recipes.put(
            mapping.recipe_from_proto(request.ingestion_recipe),
            etag=request.ingestion_recipe.etag,
            allow_missing=request.allow_missing,
        )
        return pb.UpdateIngestionRecipeResponse(ingestion_recipe=mapping.recipe_to_proto(stored))

    async def GetIngestionRecipe(
        self, request: pb.GetIngestionRecipeRequest, context: Any
    ) -> pb.GetIngestionRecipeResponse:
        found = await self._reader.get(self._ports.recipes, "IngestionRecipe", request.name)
        return pb.GetIngestionRecipeResponse(ingestion_recipe=mapping.recipe_to_proto(found))

    async def ListIngestionRecipes(
        self, request: pb.ListIngestionRecipesRequest, context: Any
    ) -> pb.ListIngestionRecipesResponse:
        listed, token = await self._reader.list(self._ports.recipes, request)
        return pb.ListIngestionRecipesResponse(
            ingestion_recipes=[mapping.recipe_to_proto(item) for item in listed.items], next_page_token=token
        )

    async def GetIngestionRecipeVersion(
        self, request: pb.GetIngestionRecipeVersionRequest, context: Any
    ) -> pb.GetIngestionRecipeVersionResponse:
        found = await self._reader.get(self._ports.recipe_versions, "IngestionRecipeVersion", request.name)
        version = mapping.recipe_version_to_proto(found.value)
        return pb.GetIngestionRecipeVersionResponse(ingestion_recipe_version=version)

    async def ListIngestionRecipeVersions(
        self, request: pb.ListIngestionRecipeVersionsRequest, context: Any
    ) -> pb.ListIngestionRecipeVersionsResponse:
        listed, token = await self._reader.list(self._ports.recipe_versions, request)
        return pb.ListIngestionRecipeVersionsResponse(
            ingestion_recipe_versions=[mapping.recipe_version_to_proto(item.value) for item in listed.items],
            next_page_token=token,
        )

    async def CreateIngestion(self, request: pb.CreateIngestionRequest, context: Any) -> pb.CreateIngestionResponse:
        project = ProjectName.parse(request.parent, "parent").project
        command = mapping.ingestion_from_proto(project, new_id(), new_id(), request)
        return pb.CreateIngestionResponse(ingestion=mapping.ingestion_to_proto(await self._ingestions.create(command)))

    async def GetIngestion(self, request: pb.GetIngestionRequest, context: Any) -> pb.GetIngestionResponse:
        found = await self._reader.get(self._ports.ingestions, "Ingestion", request.name)
        return pb.GetIngestionResponse(ingestion=mapping.ingestion_to_proto(found.value))

    async def ListIngestions(self, request: pb.ListIngestionsRequest, context: Any) -> pb.ListIngestionsResponse:
        listed, token = await self._reader.list(self._ports.ingestions, request)
        return pb.ListIngestionsResponse(
            ingestions=[mapping.ingestion_to_proto(item.value) for item in listed.items], next_page_token=token
        )

    async def CancelIngestion(self, request: pb.CancelIngestionRequest, context: Any) -> pb.CancelIngestionResponse:
        cancelled = await self._ingestions.cancel(request.name)
        return pb.CancelIngestionResponse(ingestion=mapping.ingestion_to_proto(cancelled))

    async def WatchIngestion(
        self, request: pb.WatchIngestionRequest, context: Any
    ) -> AsyncIterator[pb.WatchIngestionResponse]:
        async def read() -> Ingestion:
            return (await self._reader.get(self._ports.ingestions, "Ingestion", request.name)).value

        async for work in follow(self._listener, request.name, read, lambda work: INGESTION_STATES.ended(work.state)):
            yield pb.WatchIngestionResponse(ingestion=mapping.ingestion_to_proto(work))

    async def GetDataset(self, request: pb.GetDatasetRequest, context: Any) -> pb.GetDatasetResponse:
        found = await self._reader.get(self._ports.datasets, "Dataset", request.name)
        return pb.GetDatasetResponse(dataset=mapping.dataset_to_proto(found.value))

    async def ListDatasets(self, request: pb.ListDatasetsRequest, context: Any) -> pb.ListDatasetsResponse:
        listed, token = await self._reader.list(self._ports.datasets, request)
        return pb.ListDatasetsResponse(
            datasets=[mapping.dataset_to_proto(item.value) for item in listed.items], next_page_token=token
        )

    async def GetDatasetVersion(
        self, request: pb.GetDatasetVersionRequest, context: Any
    ) -> pb.GetDatasetVersionResponse:
        found = await self._reader.get(self._ports.versions, "DatasetVersion", request.name)
        return pb.GetDatasetVersionResponse(dataset_version=mapping.version_to_proto(found.value))

    async def ListDatasetVersions(
        self, request: pb.ListDatasetVersionsRequest, context: Any
    ) -> pb.ListDatasetVersionsResponse:
        listed, token = await self._reader.list(self._ports.versions, request)
        return pb.ListDatasetVersionsResponse(
            dataset_versions=[mapping.version_to_proto(item.value) for item in listed.items], next_page_token=token
        )

    async def ListRefusedRows(self, request: pb.ListRefusedRowsRequest, context: Any) -> pb.ListRefusedRowsResponse:
        page = Page.of(request.page_size, request.page_token, request.parent)
        rows, next_key = await self._refused.page(request.parent, page)
        return pb.ListRefusedRowsResponse(
            refused_rows=[mapping.refused_to_proto(row) for row in rows],
            next_page_token=next_page_token(next_key, request.parent),
        )

    async def ListChangedRows(self, request: pb.ListChangedRowsRequest, context: Any) -> pb.ListChangedRowsResponse:
        page = Page.of(request.page_size, request.page_token, request.parent)
        rows, next_key = await self._changed.page(request.parent, page)
        return pb.ListChangedRowsResponse(
            changed_rows=[mapping.changed_to_proto(row) for row in rows],
            next_page_token=next_page_token(next_key, request.parent),
        )

    async def GetDatasetReport(self, request: pb.GetDatasetReportRequest, context: Any) -> pb.GetDatasetReportResponse:
        report, picture = await self._reports.read(request.name, plot=request.plot)
        return pb.GetDatasetReportResponse(dataset_report=report_to_proto(request.name, report), plot_png=picture)


async def _next(requests: AsyncIterator[pb.UploadArtifactRequest]) -> pb.UploadArtifactRequest | None:
    async with asyncio.timeout(UPLOAD_IDLE_S):
        return await anext(requests, None)
