"""Guard policies."""

from alembic import op

from mainspring_svckit.documents import table_ddl

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    for statement in (*table_ddl("guard_policy"), *table_ddl("guard_policy_version")):
        op.execute(statement)
