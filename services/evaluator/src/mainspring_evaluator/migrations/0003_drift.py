"""Drift monitors and their reports."""

from alembic import op

from mainspring_svckit.documents import table_ddl

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    for statement in (*table_ddl("drift_monitor", "model"), *table_ddl("drift_report")):
        op.execute(statement)
