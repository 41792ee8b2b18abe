"""Studies and their trials."""

from alembic import op

from mainspring_svckit.documents import table_ddl

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    for statement in (*table_ddl("study"), *table_ddl("study_trial")):
        op.execute(statement)
