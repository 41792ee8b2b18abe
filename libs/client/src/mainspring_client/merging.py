"""Adapters made of several."""

from __future__ import annotations

from collections.abc import AsyncIterator

from mainspring.registry.v1 import merge_pb2, merging_service_pb2_grpc
from mainspring.registry.v1 import merging_service_pb2 as pb
from mainspring_client.connection import Area, Connection
from mainspring_svckit.ids import new_id
from mainspring_svckit.names import ProjectName


class Merging(Area):
    """Client of the registry's merging; `stub` is the generated one."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self.stub = merging_service_pb2_grpc.MergingServiceStub(connection.channel("registry"))

    async def merge(self, project: str, wish: merge_pb2.Merge, *, request_id: str = "") -> merge_pb2.Merge:
        """Asks for adapters to be merged; returns at once, follow it with `watch`."""
        parent = str(ProjectName(project))
        request = pb.CreateMergeRequest(parent=parent, merge=wish, request_id=request_id or new_id())
        return (await self._unary(self.stub.CreateMerge, request, pb.CreateMergeResponse)).merge

    async def get(self, name: str) -> merge_pb2.Merge:
        """A merge."""
        return (await self._unary(self.stub.GetMerge, pb.GetMergeRequest(name=name), pb.GetMergeResponse)).merge

    def list(self, project: str) -> AsyncIterator[merge_pb2.Merge]:
        """A project's merges, newest first."""
        request = pb.ListMergesRequest(parent=str(ProjectName(project)))
        return self._pages(self.stub.ListMerges, request, pb.ListMergesResponse, lambda r: r.merges)

    async def watch(self, name: str) -> AsyncIterator[merge_pb2.Merge]:
        """The merge now and after each change, until it has ended."""
        request = pb.WatchMergeRequest(name=name)
        async for response in self._watch(self.stub.WatchMerge, request, pb.WatchMergeResponse):
            yield response.merge
