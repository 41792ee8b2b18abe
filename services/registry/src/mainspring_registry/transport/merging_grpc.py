"""`mainspring.registry.v1.MergingService`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from mainspring.registry.v1 import merge_pb2
from mainspring.registry.v1 import merging_service_pb2 as pb
from mainspring.registry.v1 import merging_service_pb2_grpc as pb_grpc
from mainspring_registry.application.merges import Merges
from mainspring_registry.domain.making import MAKING_STATES
from mainspring_registry.domain.merges import Merge, MergeMethod, MergeSource
from mainspring_svckit.auth import current_principal
from mainspring_svckit.clock import Clock
from mainspring_svckit.database import Listener
from mainspring_svckit.ids import new_id
from mainspring_svckit.mapping import failure_to_proto, time_to_proto
from mainspring_svckit.names import MergeName, ProjectName
from mainspring_svckit.reading import Reader
from mainspring_svckit.repository import Repository
from mainspring_svckit.watching import follow

NAME = "mainspring.registry.v1.MergingService"


class MergingServicer(pb_grpc.MergingServiceServicer):
    """Translates; every decision is made in the use cases."""

    def __init__(
        self, reader: Reader, repository: Repository[Merge], merges: Merges, listener: Listener, clock: Clock
    ) -> None:
        self._reader, self._repository = reader, repository
        self._merges, self._listener, self._clock = merges, listener, clock

    async def CreateMerge(self, request: pb.CreateMergeRequest, context: Any) -> pb.CreateMergeResponse:
        project = ProjectName.parse(request.parent, "parent").project
        wish, merge_id = request.merge, new_id()
        work = await self._merges.create(
            Merge(
                name=str(MergeName(project, merge_id)),
                sources=tuple(MergeSource(source.model_version, source.weight) for source in wish.sources),
                model=wish.model,
                method=MergeMethod(merge_pb2.MergeMethod.Name(wish.method).removeprefix("MERGE_METHOD_")),
                cycle=merge_id,
                create_time=self._clock.now(),
                density=wish.density,
                seed=wish.seed,
                rank=wish.rank,
                author=current_principal.get().subject,
            )
        )
        return pb.CreateMergeResponse(merge=merge_to_proto(work))

    async def GetMerge(self, request: pb.GetMergeRequest, context: Any) -> pb.GetMergeResponse:
        found = await self._reader.get(self._repository, "Merge", request.name)
        return pb.GetMergeResponse(merge=merge_to_proto(found.value))

    async def ListMerges(self, request: pb.ListMergesRequest, context: Any) -> pb.ListMergesResponse:
        listed, token = await self._reader.list(self._repository, request)
        merges = [merge_to_proto(item.value) for item in listed.items]
        return pb.ListMergesResponse(merges=merges, next_page_token=token)

    async def WatchMerge(self, request: pb.WatchMergeRequest, context: Any) -> AsyncIterator[pb.WatchMergeResponse]:
        async def read() -> Merge:
            return (await self._reader.get(self._repository, "Merge", request.name)).value

        async for work in follow(self._listener, request.name, read, lambda work: MAKING_STATES.ended(work.state)):
            yield pb.WatchMergeResponse(merge=merge_to_proto(work))


def merge_to_proto(work: Merge) -> merge_pb2.Merge:
    """Prints a merge."""
    return merge_pb2.Merge(
        name=work.name,
        sources=[merge_pb2.MergeSource(model_version=s.model_version, weight=s.weight) for s in work.sources],
        model=work.model,
        method=merge_pb2.MergeMethod.Value(f"MERGE_METHOD_{work.method.value}"),
        density=work.density,
        seed=work.seed,
        rank=work.rank,
        state=merge_pb2.Merge.State.Value(f"STATE_{work.state.value}"),
        model_version=work.model_version,
        error=failure_to_proto(work.error_reason, work.error_message),
        cycle=work.cycle,
        create_time=time_to_proto(work.create_time),
        end_time=time_to_proto(work.end_time),
    )
