"""`mainspring.data.v1.ErasureService`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from mainspring.data.v1 import erasure_pb2
from mainspring.data.v1 import erasure_service_pb2 as pb
from mainspring.data.v1 import erasure_service_pb2_grpc as pb_grpc
from mainspring_data_ingest.application.erasures import Erasures
from mainspring_data_ingest.application.ports import Ports
from mainspring_data_ingest.domain.erasures import ERASURE_STATES, Erasure, Selector
from mainspring_svckit.database import Listener
from mainspring_svckit.ids import new_id
from mainspring_svckit.mapping import artifact_to_proto, failure_to_proto, progress_to_proto, time_to_proto
from mainspring_svckit.names import ProjectName
from mainspring_svckit.reading import Reader
from mainspring_svckit.watching import follow

NAME = "mainspring.data.v1.ErasureService"


class ErasureServicer(pb_grpc.ErasureServiceServicer):
    """Translates; every decision is made in the use cases."""

    def __init__(self, ports: Ports, erasures: Erasures, listener: Listener) -> None:
        self._ports, self._erasures, self._listener = ports, erasures, listener
        self._reader = Reader(ports.transactions)

    async def CreateErasure(self, request: pb.CreateErasureRequest, context: Any) -> pb.CreateErasureResponse:
        selector = request.selector
        wish = Selector(selector.text, tuple(selector.rows.row_ids), selector.source_sha256)
        project = ProjectName.parse(request.parent, "parent").project
        made = await self._erasures.create(project, new_id(), wish, new_id(), search_only=request.search_only)
        return pb.CreateErasureResponse(erasure=erasure_to_proto(made))

    async def GetErasure(self, request: pb.GetErasureRequest, context: Any) -> pb.GetErasureResponse:
        found = await self._reader.get(self._ports.erasures, "Erasure", request.name)
        return pb.GetErasureResponse(erasure=erasure_to_proto(found.value))

    async def ListErasures(self, request: pb.ListErasuresRequest, context: Any) -> pb.ListErasuresResponse:
        listed, token = await self._reader.list(self._ports.erasures, request)
        return pb.ListErasuresResponse(
            erasures=[erasure_to_proto(item.value) for item in listed.items], next_page_token=token
        )

    async def WatchErasure(
        self, request: pb.WatchErasureRequest, context: Any
    ) -> AsyncIterator[pb.WatchErasureResponse]:
        async def read() -> Erasure:
            return (await self._reader.get(self._ports.erasures, "Erasure", request.name)).value

        async for work in follow(self._listener, request.name, read, lambda work: ERASURE_STATES.ended(work.state)):
            yield pb.WatchErasureResponse(erasure=erasure_to_proto(work))


def erasure_to_proto(work: Erasure) -> erasure_pb2.Erasure:
    """Prints an erasure; what it looks for is never shown."""
    return erasure_pb2.Erasure(
        name=work.name,
        state=erasure_pb2.Erasure.State.Value(f"STATE_{work.state.value}"),
        progress=progress_to_proto(work.progress),
        error=failure_to_proto(work.error_reason, work.error_message),
        versions=[
            erasure_pb2.ErasedVersion(
                dataset_version=version.version,
                root_sha256=version.root_sha256,
                erased_rows=version.rows,
                erased_refused_rows=version.refused_rows,
                erased_sources=len(version.sources),
                successor=version.successor,
                successor_root_sha256=version.successor_root_sha256,
            )
            for version in work.versions
        ],
        searched_versions=work.searched,
        model_versions=work.model_versions,
        lineage_known=work.lineage_known,
        queues=[erasure_pb2.ErasedQueue(annotation_queue=q.queue, erased_items=q.items) for q in work.queues],
        erased_uploads=len(work.uploads),
        unreadable_uploads=len(work.unreadable_uploads),
        feedback_known=work.feedback is not None,
        erased_answers=work.feedback.answers if work.feedback is not None else 0,
        erased_feedback_items=work.feedback.items if work.feedback is not None else 0,
        proof=artifact_to_proto(work.proof) if work.proof is not None else None,
        create_time=time_to_proto(work.create_time),
        end_time=time_to_proto(work.end_time),
        search_only=work.search_only,
        releases=work.releases,
        presumed_versions=work.presumed,
    )
