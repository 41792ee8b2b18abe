"""What the embedder's use cases need from outside."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence, Set
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from mainspring_embedder.domain.chunking import Chunk
from mainspring_embedder.domain.collections import Collection, Index, IndexBuild
from mainspring_embedder.domain.vectors import Vector
from mainspring_svckit.clock import Clock
from mainspring_svckit.ports import Notifier, Transactions, Work
from mainspring_svckit.repository import Repository
from mainspring_svckit.values import ArtifactRef


@dataclass(frozen=True)
class Embedded:
    """Vectors of texts, in their order, and the tokens that were read."""

    vectors: Sequence[Vector]
    tokens: int


class Embeddings(Protocol):
    """The engine that holds embedding models."""

    async def embed(self, model_version: str, texts: Sequence[str]) -> Embedded:
        """Turns texts into vectors.

        Raises:
            NotFound: The version is not deployed.
            InvalidInput: CONTEXT_LENGTH_EXCEEDED, a text is too long for the model.
            Unavailable: The engine is away.
        """
        ...


class Serving(Protocol):
    """The plane that keeps models in memory."""

    async def ask_for(self, version: str, holder: str) -> None:
        """Asks for a version to be kept in memory on behalf of a holder, and does not wait. Repeats change nothing.

        Raises:
            NotFound: There is no such version.
            PreconditionFailed: DEPLOYMENT_FAILED, it cannot be loaded.
            Unavailable: The plane cannot be asked now.
        """
        ...

    async def hold(self, version: str, holder: str) -> None:
        """As `ask_for`, and returns when the version can be used."""
        ...


class ModelCatalogue(Protocol):
    """Knows models."""

    async def newest_version(self, model: str) -> str:
        """The newest version of a model.

        Raises:
            NotFound: There is no such model, or it has no version.
            Unavailable: The catalogue cannot be asked now.
        """
        ...

    async def require_embedding_model(self, version: str) -> None:
        """Sees that there is a version, and that it makes vectors.

        Raises:
            NotFound: There is none.
            PreconditionFailed: NOT_AN_EMBEDDING_MODEL.
            Unavailable: The catalogue cannot be asked now.
        """
        ...


class LocalFile(Protocol):
    """A file on this machine."""

    def lines(self) -> AsyncIterator[Sequence[bytes]]:
        """Its lines without their ends, some at a time; of one that is too long only a beginning that is too long."""
        ...


class Files(Protocol):
    """The artifact store."""

    def local(self, project: str, artifact: ArtifactRef) -> AbstractAsyncContextManager[LocalFile]:
        """The artifact as a file on this machine, verified, until the block ends.

        Raises:
            NotFound: The store does not hold it.
            PreconditionFailed: ARTIFACT_CORRUPT.
            Unavailable: The store cannot be read now.
        """
        ...


@dataclass(frozen=True)
class Found:
    """A chunk near a vector, with their cosine similarity."""

    document_id: str
    title: str
    uri: str
    text: str
    score: float


class ChunkStore(Protocol):
    """Chunks with their vectors, each index by itself; all but `finish` join the ambient transaction."""

    async def allocate(self) -> int:
        """A storage for one more index."""
        ...

    async def prepare(self, storage: int) -> None:
        """Makes the storage, unless it is there."""
        ...

    async def known(self, storage: int, ids: Sequence[str]) -> Set[str]:
        """Those of the chunks' ids that are there."""
        ...

    async def add(self, storage: int, collection: str, chunks: Sequence[Chunk], vectors: Sequence[Vector]) -> None:
        """Adds chunks; one that is there already stays."""
        ...

    async def finish(self, index: Index) -> Index:
        """Makes the index quick to search and counts what is in it. Takes long; runs in a transaction of its own."""
        ...

    async def search(self, index: Index, collection: str, vector: Vector, top_k: int) -> Sequence[Found]:
        """The chunks of a collection's index that are nearest to a vector of length 1, best first."""
        ...

    async def drop(self, storage: int) -> None:
        """Forgets an index; one that is not there is no error."""
        ...


class Announcements(Protocol):
    """Tells other services what happened; joins the ambient transaction."""

    async def refreshed(self, collection: Collection) -> None:
        """A collection is searched through a new index."""
        ...


@dataclass(frozen=True)
class Ports:
    """Everything the use cases need; made once, in `main.py`."""

    transactions: Transactions
    collections: Repository[Collection]
    builds: Repository[IndexBuild]
    chunks: ChunkStore
    embeddings: Embeddings
    serving: Serving
    catalogue: ModelCatalogue
    files: Files
    announcements: Announcements
    work: Work
    notifier: Notifier
    clock: Clock
    new_id: Callable[[], str]
