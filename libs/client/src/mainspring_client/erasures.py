"""Erasures: persons, rows and documents out of all dataset versions."""

from __future__ import annotations

from collections.abc import AsyncIterator

from mainspring.data.v1 import erasure_pb2
from mainspring.data.v1 import erasure_service_pb2 as pb
from mainspring.data.v1 import erasure_service_pb2_grpc as pb_grpc
from mainspring_client.connection import Area, Connection
from mainspring_svckit.ids import new_id
from mainspring_svckit.names import ProjectName


class Erasures(Area):
    """Client of data-ingest's erasures; `stub` is the generated one."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self.stub = pb_grpc.ErasureServiceStub(connection.channel("data-ingest"))

    async def create(
        self,
        project: str,
        selector: erasure_pb2.ErasureSelector,
        *,
        search_only: bool = False,
        request_id: str = "",
    ) -> erasure_pb2.Erasure:
        """Asks for an erasure; returns at once, follow it with `watch`. What it removes cannot be brought back;
        with `search_only` it removes nothing and says who saw what is looked for.
        """
        request = pb.CreateErasureRequest(
            parent=str(ProjectName(project)),
            selector=selector,
            search_only=search_only,
            request_id=request_id or new_id(),
        )
        return (await self._unary(self.stub.CreateErasure, request, pb.CreateErasureResponse)).erasure

    async def get(self, name: str) -> erasure_pb2.Erasure:
        """An erasure."""
        request = pb.GetErasureRequest(name=name)
        return (await self._unary(self.stub.GetErasure, request, pb.GetErasureResponse)).erasure

    def list(self, project: str) -> AsyncIterator[erasure_pb2.Erasure]:
        """A project's erasures, newest first."""
        request = pb.ListErasuresRequest(parent=str(ProjectName(project)))
        return self._pages(self.stub.ListErasures, request, pb.ListErasuresResponse, lambda r: r.erasures)

    async def watch(self, name: str) -> AsyncIterator[erasure_pb2.Erasure]:
        """The erasure now and after each change, until it has ended."""
        request = pb.WatchErasureRequest(name=name)
        async for response in self._watch(self.stub.WatchErasure, request, pb.WatchErasureResponse):
            yield response.erasure
