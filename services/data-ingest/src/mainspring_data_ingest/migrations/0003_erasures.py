"""Erasures."""

from alembic import op

from mainspring_svckit.documents import table_ddl

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    for statement in table_ddl("erasure"):
        op.execute(statement)
