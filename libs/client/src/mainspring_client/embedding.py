"""Vectors, and collections of documents that can be searched."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from mainspring.common.v1 import artifact_pb2
from mainspring.embedding.v1 import collection_pb2, embedding_service_pb2_grpc
from mainspring.embedding.v1 import embedding_service_pb2 as pb
from mainspring_client.connection import Area, Connection
from mainspring_svckit.ids import new_id
from mainspring_svckit.names import CollectionName, ProjectName


class Embedding(Area):
    """Client of the embedder; `stub` is the generated one."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self.stub = embedding_service_pb2_grpc.EmbeddingServiceStub(connection.channel("embedder"))

    async def embed(self, model: str, texts: Sequence[str]) -> list[list[float]]:
        """One vector of length 1 for each text, in order."""
        request = pb.EmbedTextsRequest(
            parent="/".join(model.split("/")[:2]), embedding_model_version=model, texts=texts
        )
        response = await self._unary(self.stub.EmbedTexts, request, pb.EmbedTextsResponse, 120)
        return [list(vector.values) for vector in response.vectors]

    async def create_collection(self, name: str, embedding_model_version: str) -> collection_pb2.Collection:
        """Makes an empty collection."""
        parsed = CollectionName.parse(name)
        request = pb.CreateCollectionRequest(
            parent=str(ProjectName(parsed.project)),
            collection_id=parsed.collection,
            embedding_model_version=embedding_model_version,
            request_id=new_id(),
        )
        return (await self._unary(self.stub.CreateCollection, request, pb.CreateCollectionResponse)).collection

    def collections(self, project: str) -> AsyncIterator[collection_pb2.Collection]:
        """A project's collections by name."""
        request = pb.ListCollectionsRequest(parent=str(ProjectName(project)))
        return self._pages(self.stub.ListCollections, request, pb.ListCollectionsResponse, lambda r: r.collections)

    async def index(self, collection: str, documents: artifact_pb2.Artifact) -> collection_pb2.IndexBuild:
        """Asks for a new index over documents, an uploaded JSONL file; returns at once, follow it with
        `watch_build`.
        """
        request = pb.CreateIndexBuildRequest(parent=collection, documents=documents, request_id=new_id())
        return (await self._unary(self.stub.CreateIndexBuild, request, pb.CreateIndexBuildResponse)).index_build

    async def watch_build(self, name: str) -> AsyncIterator[collection_pb2.IndexBuild]:
        """The build now and after each change, until it has ended."""
        request = pb.WatchIndexBuildRequest(name=name)
        async for response in self._watch(self.stub.WatchIndexBuild, request, pb.WatchIndexBuildResponse):
            yield response.index_build

    async def search(self, collection: str, query: str, top_k: int = 0) -> Sequence[collection_pb2.Passage]:
        """The passages nearest in meaning to a query, best first."""
        request = pb.SearchCollectionRequest(name=collection, query=query, top_k=top_k)
        return (await self._unary(self.stub.SearchCollection, request, pb.SearchCollectionResponse)).passages
