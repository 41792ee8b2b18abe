"""`mainspring.data.v1.SourceService`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC
from typing import Any

from mainspring.common.v1 import chat_pb2
from mainspring.data.v1 import ingestion_pb2, source_pb2
from mainspring.data.v1 import source_service_pb2 as pb
from mainspring.data.v1 import source_service_pb2_grpc as pb_grpc
from mainspring_data_ingest.application.sources import Sources
from mainspring_data_ingest.domain.ingestions import SourceFormat
from mainspring_data_ingest.domain.places import Judged, Place, Query, Remote
from mainspring_data_ingest.domain.previews import Preview, PreviewedRecord
from mainspring_data_ingest.transport.mapping import refused_to_proto
from mainspring_data_ingest.transport.reports import refusals_to_proto
from mainspring_data_ingest.transport.steps import columns_from_proto, columns_to_proto
from mainspring_svckit.errors import NotFound
from mainspring_svckit.mapping import artifact_from_proto, artifact_to_proto
from mainspring_svckit.names import ProjectName, project_name_of

NAME = "mainspring.data.v1.SourceService"


class SourceServicer(pb_grpc.SourceServiceServicer):
    """Translates; every decision is made in the use cases."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    async def PreviewSource(self, request: pb.PreviewSourceRequest, context: Any) -> pb.PreviewSourceResponse:
        asked = ingestion_pb2.Source.Format.Name(request.format).removeprefix("FORMAT_")
        found = await self._sources.preview(
            ProjectName.parse(request.parent, "parent").project,
            artifact_from_proto(request.artifact),
            SourceFormat(asked) if request.format else None,
            columns_from_proto(request.columns) if request.HasField("columns") else None,
            request.record_count,
        )
        return pb.PreviewSourceResponse(preview=_preview(found))

    async def FetchSource(self, request: pb.FetchSourceRequest, context: Any) -> AsyncIterator[pb.FetchSourceResponse]:
        project = ProjectName.parse(request.parent, "parent").project
        async for artifact, origin in self._sources.fetch(project, _place(project, request)):
            yield pb.FetchSourceResponse(artifact=artifact_to_proto(artifact), origin=origin)


def _place(project: str, request: pb.FetchSourceRequest) -> Place:
    match request.WhichOneof("place"):
        case "uri":
            return Remote(request.uri)
        case "query":
            return Query(request.query.connection, request.query.sql)
        case _:
            wanted = request.feedback
            for name in (wanted.model, wanted.model_version, wanted.release):
                if name and project_name_of(name) != f"projects/{project}":
                    raise NotFound("Model", name)
            return Judged(
                wanted.model,
                wanted.model_version,
                wanted.release,
                wanted.start_time.ToDatetime(UTC) if wanted.HasField("start_time") else None,
                wanted.end_time.ToDatetime(UTC) if wanted.HasField("end_time") else None,
            )


def _preview(found: Preview) -> source_pb2.SourcePreview:
    shape = f"RECORD_SHAPE_{found.shape.value if found.shape is not None else 'UNSPECIFIED'}"
    return source_pb2.SourcePreview(
        format=ingestion_pb2.Source.Format.Value(f"FORMAT_{found.format.value}"),
        shape=source_pb2.RecordShape.Value(shape),
        columns=columns_to_proto(found.columns) if found.columns is not None else None,
        column_names=found.column_names,
        records=map(_record, found.records),
        read_records=found.read_records,
        refusals=refusals_to_proto(found.refusals),
        refused=map(refused_to_proto, found.refused),
        whole=found.whole,
    )


def _record(record: PreviewedRecord) -> source_pb2.PreviewedRecord:
    message = source_pb2.PreviewedRecord(line=record.line, excerpt=record.excerpt)
    if record.draft is None:
        return message
    for turn in record.draft.messages:
        role = chat_pb2.ChatMessage.Role.Value(f"ROLE_{turn.role.upper()}")
        message.messages.append(chat_pb2.ChatMessage(role=role, content=turn.content))
    if record.draft.rejected is not None:
        message.rejected = record.draft.rejected
    if record.draft.desirable is not None:
        message.desirable = record.draft.desirable
    return message
