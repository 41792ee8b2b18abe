"""Quantizations."""

from alembic import op

from mainspring_svckit.documents import table_ddl

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    for statement in table_ddl("quantization"):
        op.execute(statement)
