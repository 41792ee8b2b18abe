"""What data-ingest knows of dataset versions, by its own RPCs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

import grpc

from mainspring.data.v1 import (
    data_service_pb2,
    data_service_pb2_grpc,
    dataset_pb2,
    erasure_pb2,
    erasure_service_pb2,
    erasure_service_pb2_grpc,
    version_service_pb2,
    version_service_pb2_grpc,
)
from mainspring_registry.domain.data import DatasetFacts, DataSource, Search, Sought, SourcedRow, TracedVersion
from mainspring_svckit.errors import PreconditionFailed, Unavailable
from mainspring_svckit.grpc_client import Caller
from mainspring_svckit.ids import new_id
from mainspring_svckit.mapping import failure_from_proto, messages_from_proto, progress_from_proto
from mainspring_svckit.names import DatasetVersionName, ProjectName, SourceName

_QUICK_S = 3.0
"""How long a walk waits for data-ingest before it does without."""
_LOOKS, _PAUSE_S = 10, 1.0
"""How often a search is looked at anew after the connection broke, and the pause before."""


class DataIngestCatalogue:
    """`DataCatalogue` by data-ingest's services."""

    def __init__(self, channel: grpc.aio.Channel, caller: Caller) -> None:
        self._data: Any = data_service_pb2_grpc.DataServiceStub(channel)
        self._versions: Any = version_service_pb2_grpc.DatasetVersionServiceStub(channel)
        self._erasures: Any = erasure_service_pb2_grpc.ErasureServiceStub(channel)
        self._caller = caller

    async def facts(self, dataset_version: str) -> DatasetFacts:
        """See `DataCatalogue`."""
        pb = data_service_pb2
        request = pb.GetDatasetVersionRequest(name=dataset_version)
        found = await self._caller.unary(
            self._data.GetDatasetVersion, request, pb.GetDatasetVersionResponse, timeout_s=_QUICK_S
        )
        version, project = found.dataset_version, DatasetVersionName.parse(dataset_version).project
        return DatasetFacts(
            version=version.name,
            ingestion=version.ingestion,
            recipe=version.ingestion_recipe,
            sources=tuple(
                DataSource(str(SourceName(project, s.sha256)), s.filename, s.media_type, s.size_bytes)
                for s in version.sources
            ),
            supersedes=version.supersedes,
            recipe_version=version.ingestion_recipe_version,
        )

    async def rows(self, dataset_version: str, page_size: int, page_token: str) -> tuple[Sequence[SourcedRow], str]:
        """See `DataCatalogue`."""
        pb = version_service_pb2
        request = pb.ListDatasetRowsRequest(parent=dataset_version, page_size=page_size, page_token=page_token)
        found = await self._caller.unary(
            self._versions.ListDatasetRows, request, pb.ListDatasetRowsResponse, timeout_s=_QUICK_S
        )
        rows = [
            SourcedRow(
                row.row_id,
                dataset_pb2.Split.Name(row.split),
                messages_from_proto(row.messages),
                row.source_index,
                row.line,
            )
            for row in found.rows
        ]
        return rows, found.next_page_token

    async def search(self, project: str, sought: Sought) -> AsyncGenerator[Search]:
        """See `DataCatalogue`."""
        pb = erasure_service_pb2
        request = pb.CreateErasureRequest(
            parent=str(ProjectName(project)), selector=_selector(sought), search_only=True, request_id=new_id()
        )
        made = await self._caller.unary(self._erasures.CreateErasure, request, pb.CreateErasureResponse)
        watch = pb.WatchErasureRequest(name=made.erasure.name)
        for left in reversed(range(_LOOKS)):  # The search goes on at data-ingest, whoever looks.
            seen = self._caller.stream(self._erasures.WatchErasure, watch, pb.WatchErasureResponse)
            try:
                async with aclosing(seen) as updates:
                    async for update in updates:
                        yield _search(update.erasure)
                return
            except Unavailable:
                if not left:
                    raise
                await asyncio.sleep(_PAUSE_S)


def _selector(sought: Sought) -> erasure_pb2.ErasureSelector:
    if sought.row_ids:
        return erasure_pb2.ErasureSelector(rows=erasure_pb2.RowIds(row_ids=sought.row_ids))
    if sought.source_sha256:
        return erasure_pb2.ErasureSelector(source_sha256=sought.source_sha256)
    return erasure_pb2.ErasureSelector(text=sought.text)


def _search(work: erasure_pb2.Erasure) -> Search:
    if work.state == erasure_pb2.Erasure.STATE_FAILED:
        raise PreconditionFailed(*failure_from_proto(work.error))
    found = [
        TracedVersion(v.dataset_version, v.erased_rows, v.erased_refused_rows, v.erased_sources) for v in work.versions
    ]
    presumed = [TracedVersion(name, presumed=True) for name in work.presumed_versions]
    return Search(
        name=work.name,
        progress=progress_from_proto(work.progress),
        ended=work.state == erasure_pb2.Erasure.STATE_SUCCEEDED,
        searched=work.searched_versions,
        versions=(*found, *presumed),
    )
