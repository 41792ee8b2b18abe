"""How far runs were mirrored to an experiment tracker."""

from alembic import op

from mainspring_svckit.documents import table_ddl

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    for statement in table_ddl("training_mirror"):
        op.execute(statement)
