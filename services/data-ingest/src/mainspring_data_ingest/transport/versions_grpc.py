"""`mainspring.data.v1.DatasetVersionService`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

from mainspring.common.v1 import chat_pb2
from mainspring.data.v1 import comparison_pb2, dataset_pb2, measurement_pb2
from mainspring.data.v1 import version_service_pb2 as pb
from mainspring.data.v1 import version_service_pb2_grpc as pb_grpc
from mainspring_data_ingest.application.measurements import Measurements
from mainspring_data_ingest.application.versions import ComparisonPage, FileBegins, Versions
from mainspring_data_ingest.domain.exports import ExportFormat
from mainspring_data_ingest.domain.splits import Split
from mainspring_data_ingest.transport.mapping import dataset_to_proto
from mainspring_data_ingest.transport.reports import alignment_to_proto, texts_to_proto
from mainspring_svckit.pagination import Page, next_page_token

NAME = "mainspring.data.v1.DatasetVersionService"


class DatasetVersionServicer(pb_grpc.DatasetVersionServiceServicer):
    """Translates; every decision is made in the use cases."""

    def __init__(self, versions: Versions, measurements: Measurements) -> None:
        self._versions, self._measurements = versions, measurements

    async def ListDatasetRows(self, request: pb.ListDatasetRowsRequest, context: Any) -> pb.ListDatasetRowsResponse:
        bound = (request.parent, str(request.split))
        page = Page.of(request.page_size, request.page_token, *bound)
        split = Split(dataset_pb2.Split.Name(request.split).removeprefix("SPLIT_")) if request.split else None
        rows, next_key = await self._versions.rows(request.parent, split, page)
        return pb.ListDatasetRowsResponse(
            rows=[_row(row) for row in rows], next_page_token=next_page_token(next_key, *bound)
        )

    async def CompareDatasetVersions(
        self, request: pb.CompareDatasetVersionsRequest, context: Any
    ) -> pb.CompareDatasetVersionsResponse:
        bound = (request.base, request.target)
        found = await self._versions.compare(
            request.base, request.target, Page.of(request.page_size, request.page_token, *bound)
        )
        return pb.CompareDatasetVersionsResponse(
            comparison=_comparison(found),
            changes=[
                comparison_pb2.RowChange(
                    kind=comparison_pb2.RowChange.Kind.Value(f"KIND_{change['kind']}"),
                    base=_row(change["base"]) if change["base"] is not None else None,
                    target=_row(change["target"]) if change["target"] is not None else None,
                )
                for change in found.changes
            ],
            next_page_token=next_page_token(found.next_key, *bound),
        )

    async def GetDatasetCard(self, request: pb.GetDatasetCardRequest, context: Any) -> pb.GetDatasetCardResponse:
        text, croissant = await self._versions.card(request.name)
        return pb.GetDatasetCardResponse(markdown=text, croissant_json=croissant.decode())

    async def ExportDatasetVersion(
        self, request: pb.ExportDatasetVersionRequest, context: Any
    ) -> AsyncIterator[pb.ExportDatasetVersionResponse]:
        jsonl = request.format == pb.ExportDatasetVersionRequest.FORMAT_JSONL
        async for part in self._versions.export(request.name, ExportFormat.JSONL if jsonl else ExportFormat.PARQUET):
            if isinstance(part, FileBegins):
                file = pb.ExportedFile(
                    path=part.path, size_bytes=part.size_bytes, sha256=part.sha256, total_bytes=part.total_bytes
                )
                yield pb.ExportDatasetVersionResponse(file=file)
            else:
                yield pb.ExportDatasetVersionResponse(chunk=part)

    async def MeasureDatasetVersion(
        self, request: pb.MeasureDatasetVersionRequest, context: Any
    ) -> pb.MeasureDatasetVersionResponse:
        found = await self._measurements.measure(request.name, request.reference, request.embedding_model_version)
        return pb.MeasureDatasetVersionResponse(
            measurement=measurement_pb2.DatasetMeasurement(
                dataset_version=request.name,
                sample_rows=found.rows,
                vectors=found.vectors,
                self_bleu=found.self_bleu,
                vendi_score=found.vendi_score,
                cluster_evenness=found.cluster_evenness,
                alignment=found.alignment and alignment_to_proto(request.reference, found.alignment),
            )
        )

    async def SetDatasetTag(self, request: pb.SetDatasetTagRequest, context: Any) -> pb.SetDatasetTagResponse:
        dataset = await self._versions.tag(request.dataset, request.tag, request.dataset_version)
        return pb.SetDatasetTagResponse(dataset=dataset_to_proto(dataset))

    async def SetDatasetRetention(
        self, request: pb.SetDatasetRetentionRequest, context: Any
    ) -> pb.SetDatasetRetentionResponse:
        dataset = await self._versions.retain(request.dataset, request.keep_newest)
        return pb.SetDatasetRetentionResponse(dataset=dataset_to_proto(dataset))


def _comparison(found: ComparisonPage) -> comparison_pb2.DatasetComparison:
    counts = found.comparison.counts
    return comparison_pb2.DatasetComparison(
        base=found.comparison.base,
        target=found.comparison.target,
        base_rows=counts.base_rows,
        target_rows=counts.target_rows,
        same_rows=counts.same,
        moved_rows=counts.moved,
        changed_rows=counts.changed,
        added_rows=counts.added,
        removed_rows=counts.removed,
        base_texts=texts_to_proto(found.base_texts) if found.base_texts is not None else None,
        target_texts=texts_to_proto(found.target_texts) if found.target_texts is not None else None,
    )


def _row(row: Mapping[str, Any]) -> comparison_pb2.DatasetRow:
    return comparison_pb2.DatasetRow(
        row_id=row["row_id"],
        split=dataset_pb2.Split.Value(f"SPLIT_{row['split'].upper()}"),
        messages=[
            chat_pb2.ChatMessage(
                role=chat_pb2.ChatMessage.Role.Value(f"ROLE_{message['role'].upper()}"), content=message["content"]
            )
            for message in row["messages"]
        ],
        group=row["group"],
        source_index=row["source_index"],
        line=row["line"],
        rejected=row.get("rejected"),
        desirable=row.get("desirable"),
        repeats=row.get("repeats", 0),
        synthetic=row.get("synthetic", False),
    )
