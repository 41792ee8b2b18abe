"""Chunks on pgvector: one table, each index a partition of its own.

An index is filled, made quick to search and dropped without the others noticing, and no tenant's vectors can be among
another's neighbours. Small indexes are searched exactly; larger ones by HNSW over half-precision copies, which doubles
the searches per second at equal recall. Queries name the partition, so that none ever waits for the making of another.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import replace

from sqlalchemy import text

from mainspring_embedder.application.ports import Found
from mainspring_embedder.domain.chunking import Chunk
from mainspring_embedder.domain.collections import Index
from mainspring_embedder.domain.vectors import Vector
from mainspring_svckit.database import Database
from mainspring_svckit.errors import PreconditionFailed

EXACT_UP_TO = 2_000
"""Chunks up to which every vector is compared: a few milliseconds, and no index to build."""
_EF_SEARCH = 100


class PgvectorChunks:
    """`ChunkStore` on pgvector."""

    def __init__(self, database: Database, patient: Database, *, exact_up_to: int = EXACT_UP_TO) -> None:
        """Takes the database twice: as usual, and with statements that may take as long as building an index does."""
        self._database, self._patient, self._exact_up_to = database, patient, exact_up_to

    async def allocate(self) -> int:
        return int(await self._database.connection().scalar(text("SELECT nextval('chunk_storage')")))

    async def prepare(self, storage: int) -> None:
        table = _table(storage)
        await self._database.connection().execute(
            text(f"CREATE TABLE IF NOT EXISTS {table} PARTITION OF chunk FOR VALUES IN ({storage:d})")
        )

    async def known(self, storage: int, ids: Sequence[str]) -> Set[str]:
        query = f"SELECT id FROM {_table(storage)} WHERE id = ANY(cast(:ids AS text[]))"  # noqa: S608 - the table is named by a number.
        rows = await self._database.connection().execute(text(query), {"ids": list(ids)})
        return set(rows.scalars())

    async def add(self, storage: int, collection: str, chunks: Sequence[Chunk], vectors: Sequence[Vector]) -> None:
        await self._database.connection().execute(
            text(
                f"INSERT INTO {_table(storage)}"  # noqa: S608 - the table is named by a number.
                " (storage, collection, id, document_id, title, uri, text, embedding)"
                f" SELECT {storage:d}, :collection, id, document_id, title, uri, body, cast(embedding AS vector)"
                " FROM unnest(cast(:ids AS text[]), cast(:documents AS text[]), cast(:titles AS text[]),"
                " cast(:uris AS text[]), cast(:texts AS text[]), cast(:vectors AS text[]))"
                " AS u(id, document_id, title, uri, body, embedding) ON CONFLICT DO NOTHING"
            ),
            {
                "collection": collection,
                "ids": [chunk.id for chunk in chunks],
                "documents": [chunk.document_id for chunk in chunks],
                "titles": [chunk.title for chunk in chunks],
                "uris": [chunk.uri for chunk in chunks],
                "texts": [chunk.text for chunk in chunks],
                "vectors": [_printed(vector) for vector in vectors],
            },
        )

    async def finish(self, index: Index) -> Index:
        table = _table(index.storage)
        async with self._patient.transaction() as connection:
            counted = (
                await connection.execute(
                    text(
                        "SELECT count(*) AS chunks, count(DISTINCT document_id) AS documents,"  # noqa: S608 - the table is named by a number.
                        " min(vector_dims(embedding)) AS least, max(vector_dims(embedding)) AS dimensions"
                        f" FROM {table}"
                    )
                )
            ).one()
            if counted.least != counted.dimensions:
                message = f"the embedding model gave vectors of {counted.least} and of {counted.dimensions} components"
                raise PreconditionFailed("VECTOR_UNUSABLE", f"{message}; import the model again")
            if counted.chunks > self._exact_up_to:
                await connection.execute(
                    text(
                        f"CREATE INDEX IF NOT EXISTS {table}_hnsw ON {table}"
                        f" USING hnsw ((embedding::halfvec({counted.dimensions:d})) halfvec_cosine_ops)"
                    )
                )
            await connection.execute(text(f"ANALYZE {table}"))
        return replace(index, documents=counted.documents, chunks=counted.chunks, dimensions=counted.dimensions or 0)

    async def search(self, index: Index, collection: str, vector: Vector, top_k: int) -> Sequence[Found]:
        connection = self._database.connection()
        order = "embedding <=> cast(:vector AS vector)"
        if index.chunks > self._exact_up_to:
            half = f"halfvec({index.dimensions:d})"
            order = f"(embedding::{half}) <=> cast(:vector AS {half})"
            # For this transaction only. The planner takes comparing hundreds of components for as cheap as comparing
            # two numbers, and would read the whole table.
            await connection.execute(
                text("SELECT set_config('hnsw.ef_search', :ef, true), set_config('enable_seqscan', 'off', true)"),
                {"ef": str(max(_EF_SEARCH, top_k))},
            )
        rows = await connection.execute(
            text(
                "SELECT document_id, title, uri, text, 1 - (embedding <=> cast(:vector AS vector)) AS score"  # noqa: S608 - the table is named by a number.
                f" FROM {_table(index.storage)} WHERE collection = :collection ORDER BY {order} LIMIT :top_k"
            ),
            {"collection": collection, "vector": _printed(vector), "top_k": top_k},
        )
        found = [Found(row.document_id, row.title, row.uri, row.text, row.score) for row in rows.all()]
        return sorted(found, key=lambda passage: passage.score, reverse=True)

    async def drop(self, storage: int) -> None:
        await self._database.connection().execute(text(f"DROP TABLE IF EXISTS {_table(storage)}"))


def _table(storage: int) -> str:
    """The partition; a number and nothing else ever gets into a statement."""
    return f"chunk_{storage:d}"


def _printed(vector: Vector) -> str:
    return f"[{','.join(map(repr, vector))}]"
