"""`mainspring.embedding.v1.EmbeddingService`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from mainspring.common.v1 import chat_pb2
from mainspring.embedding.v1 import embedding_service_pb2 as pb
from mainspring.embedding.v1 import embedding_service_pb2_grpc as pb_grpc
from mainspring_embedder.application.building import Builds
from mainspring_embedder.application.collections import Collections
from mainspring_embedder.application.ports import Ports
from mainspring_embedder.domain.collections import BUILD_STATES, IndexBuild
from mainspring_embedder.transport import mapping
from mainspring_svckit.database import Listener
from mainspring_svckit.mapping import artifact_from_proto
from mainspring_svckit.names import ProjectName
from mainspring_svckit.reading import Reader
from mainspring_svckit.watching import follow

NAME = "mainspring.embedding.v1.EmbeddingService"


class EmbeddingServicer(pb_grpc.EmbeddingServiceServicer):
    """Translates; every decision is made in the use cases."""

    def __init__(self, ports: Ports, collections: Collections, builds: Builds, listener: Listener) -> None:
        self._ports, self._collections, self._builds, self._listener = ports, collections, builds, listener
        self._reader = Reader(ports.transactions)

    async def EmbedTexts(self, request: pb.EmbedTextsRequest, context: Any) -> pb.EmbedTextsResponse:
        project = ProjectName.parse(request.parent, "parent").project
        version, embedded = await self._collections.embed_texts(
            project, request.embedding_model_version, list(request.texts)
        )
        return pb.EmbedTextsResponse(
            vectors=[pb.Vector(values=vector) for vector in embedded.vectors],
            embedding_model_version=version,
            usage=chat_pb2.TokenUsage(input_tokens=embedded.tokens),
        )

    async def CreateCollection(self, request: pb.CreateCollectionRequest, context: Any) -> pb.CreateCollectionResponse:
        project = ProjectName.parse(request.parent, "parent").project
        collection = await self._collections.create(project, request.collection_id, request.embedding_model_version)
        return pb.CreateCollectionResponse(collection=mapping.collection_to_proto(collection))

    async def GetCollection(self, request: pb.GetCollectionRequest, context: Any) -> pb.GetCollectionResponse:
        found = await self._reader.get(self._ports.collections, "Collection", request.name)
        return pb.GetCollectionResponse(collection=mapping.collection_to_proto(found.value))

    async def ListCollections(self, request: pb.ListCollectionsRequest, context: Any) -> pb.ListCollectionsResponse:
        listed, token = await self._reader.list(self._ports.collections, request)
        return pb.ListCollectionsResponse(
            collections=[mapping.collection_to_proto(item.value) for item in listed.items], next_page_token=token
        )

    async def CreateIndexBuild(self, request: pb.CreateIndexBuildRequest, context: Any) -> pb.CreateIndexBuildResponse:
        build = await self._builds.create(request.parent, artifact_from_proto(request.documents))
        return pb.CreateIndexBuildResponse(index_build=mapping.build_to_proto(build))

    async def GetIndexBuild(self, request: pb.GetIndexBuildRequest, context: Any) -> pb.GetIndexBuildResponse:
        found = await self._reader.get(self._ports.builds, "IndexBuild", request.name)
        return pb.GetIndexBuildResponse(index_build=mapping.build_to_proto(found.value))

    async def ListIndexBuilds(self, request: pb.ListIndexBuildsRequest, context: Any) -> pb.ListIndexBuildsResponse:
        listed, token = await self._reader.list(self._ports.builds, request)
        return pb.ListIndexBuildsResponse(
            index_builds=[mapping.build_to_proto(item.value) for item in listed.items], next_page_token=token
        )

    async def WatchIndexBuild(
        self, request: pb.WatchIndexBuildRequest, context: Any
    ) -> AsyncIterator[pb.WatchIndexBuildResponse]:
        async def read() -> IndexBuild:
            return (await self._reader.get(self._ports.builds, "IndexBuild", request.name)).value

        async for build in follow(self._listener, request.name, read, lambda build: BUILD_STATES.ended(build.state)):
            yield pb.WatchIndexBuildResponse(index_build=mapping.build_to_proto(build))

    async def SearchCollection(self, request: pb.SearchCollectionRequest, context: Any) -> pb.SearchCollectionResponse:
        result = await self._collections.search(request.name, request.query, request.top_k)
        return pb.SearchCollectionResponse(
            passages=[mapping.passage_to_proto(found) for found in result.passages], index=result.index
        )
