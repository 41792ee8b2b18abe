"""The embedder's first tables."""

from alembic import op

from mainspring_eventkit import schema as eventkit_schema
from mainspring_svckit import schema as svckit_schema
from mainspring_svckit.documents import table_ddl

revision = "0001"
down_revision = None

CHUNKS = (
    # The extension itself is installed by whoever makes the database, since only an admin of the server may.
    "CREATE SEQUENCE chunk_storage",
    """
    CREATE TABLE chunk (
        storage bigint NOT NULL,
        id text NOT NULL,
        collection text NOT NULL,
        document_id text NOT NULL,
        title text NOT NULL,
        uri text NOT NULL,
        text text NOT NULL,
        embedding vector NOT NULL,
        PRIMARY KEY (storage, id)
    ) PARTITION BY LIST (storage)
    """,
)


def upgrade() -> None:
    for statement in (
        *svckit_schema.V1,
        *eventkit_schema.V1,
        *table_ddl("collection"),
        *table_ddl("index_build"),
        *CHUNKS,
    ):
        op.execute(statement)
