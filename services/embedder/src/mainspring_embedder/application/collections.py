"""Use cases of collections, searching and embedding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mainspring_embedder.application.ports import Embedded, Found, Ports
from mainspring_embedder.domain.chunking import MAX_TOKENS, first_part
from mainspring_embedder.domain.collections import Collection
from mainspring_embedder.domain.vectors import unit
from mainspring_svckit.errors import InvalidInput, NotFound, Unavailable
from mainspring_svckit.names import CollectionName, ModelName, ModelVersionName
from mainspring_svckit.repository import require

HOLD_WORK = "collection-hold"
DEFAULT_TOP_K = 5
LOADING_RETRY_S = 2.0
CONTEXT_EXCEEDED = "CONTEXT_LENGTH_EXCEEDED"
_SHORTEST_QUERY_TOKENS = 16


@dataclass(frozen=True)
class SearchResult:
    """Passages, best first, and the number of the index that was searched (0 while there is none)."""

    passages: Sequence[Found]
    index: int


class Collections:
    """Use cases of collections."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports

    async def create(self, project: str, collection_id: str, embedding_model_version: str) -> Collection:
        """Makes an empty collection, and has its model kept in memory.

        Raises:
            AlreadyExists: There is one of that name.
            InvalidInput: A name is malformed.
        """
        ModelVersionName.parse(embedding_model_version, "embedding_model_version")
        collection = Collection(
            name=str(CollectionName(project, collection_id)),
            embedding_model_version=embedding_model_version,
            create_time=self._ports.clock.now(),
        )
        async with self._ports.transactions.transaction():
            stored = await self._ports.collections.add(collection)
            await self._ports.work.enqueue(HOLD_WORK, collection.name)
        return stored.value

    async def hold(self, name: str) -> None:
        """Has a collection's model kept in memory; safe to repeat.

        Raises:
            NotFound: There is no such version, or no such collection.
            PreconditionFailed: DEPLOYMENT_FAILED.
            Unavailable: Not now.
        """
        collection = await self._get(name)
        await self._ports.serving.ask_for(collection.embedding_model_version, holder=name)

    async def search(self, name: str, query: str, top_k: int) -> SearchResult:
        """The passages nearest in meaning to a query; of a query that is too long for the model its beginning counts.

        Raises:
            NotFound: There is no such collection.
            Unavailable: MODEL_LOADING, or the engine is away.
        """
        ports = self._ports
        before = await self._get(name)
        if before.active is None:
            return SearchResult((), 0)
        try:
            vector = unit((await self._embed_query(before.embedding_model_version, query)).vectors[0])
        except NotFound as err:
            raise await self._loading(before.embedding_model_version, holder=name) from err
        async with ports.transactions.transaction():
            # Read again: the index of before may have been replaced, and be removed soon.
            index = (await require(ports.collections, "Collection", name)).value.active
            assert index is not None
            found = await ports.chunks.search(index, name, vector, top_k or DEFAULT_TOP_K)
        return SearchResult(found, index.number)

    async def embed_texts(self, project: str, model: str, texts: Sequence[str]) -> tuple[str, Embedded]:
        """Turns texts into vectors of length 1; returns the version that made them, too.

        Args:
            project: Who asks.
            model: Name of a version, or of a model, which means its newest version.
            texts: The texts.

        Raises:
            NotFound: There is no such model or version.
            InvalidInput: CONTEXT_LENGTH_EXCEEDED.
            PreconditionFailed: NOT_AN_EMBEDDING_MODEL.
            Unavailable: MODEL_LOADING, the version is being loaded; or the engine is away.
        """
        version = model
        if ModelName.matches(model):
            version = await self._ports.catalogue.newest_version(model)
        else:
            ModelVersionName.parse(model, "embedding_model_version")
        try:
            embedded = await self._ports.embeddings.embed(version, texts)
        except NotFound as err:
            # Anything else would be waited for in vain.
            await self._ports.catalogue.require_embedding_model(version)
            raise await self._loading(version, holder=f"projects/{project}/embedder") from err
        return version, Embedded([unit(vector) for vector in embedded.vectors], embedded.tokens)

    async def _get(self, name: str) -> Collection:
        async with self._ports.transactions.transaction():
            return (await require(self._ports.collections, "Collection", name)).value

    async def _embed_query(self, version: str, query: str) -> Embedded:
        tokens = MAX_TOKENS
        while True:
            try:
                return await self._ports.embeddings.embed(version, [first_part(query, tokens) or query[:1]])
            except InvalidInput as err:
                # The estimate of its tokens was too low.
                if err.reason != CONTEXT_EXCEEDED or tokens <= _SHORTEST_QUERY_TOKENS:
                    raise
                tokens //= 2

    async def _loading(self, version: str, holder: str) -> Unavailable:
        await self._ports.serving.ask_for(version, holder)
        message = f"{version} is being loaded; try again in a moment"
        return Unavailable("MODEL_LOADING", message, retry_after_s=LOADING_RETRY_S, metadata={"modelVersion": version})
