"""Merges of adapters."""

from alembic import op

from mainspring_svckit.documents import table_ddl

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    for statement in table_ddl("merge"):
        op.execute(statement)
