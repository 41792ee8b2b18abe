"""Comparisons of versions."""

from alembic import op

from mainspring_svckit.documents import table_ddl

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    for statement in table_ddl("dataset_comparison", "base", "target"):
        op.execute(statement)
