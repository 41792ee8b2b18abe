"""Inference's first tables."""

from alembic import op

from mainspring_eventkit import schema as eventkit_schema
from mainspring_svckit import schema as svckit_schema
from mainspring_svckit.documents import table_ddl

revision = "0001"
down_revision = None


def upgrade() -> None:
    for statement in (
        *svckit_schema.V1,
        *eventkit_schema.V1,
        *table_ddl("deployment", "model", "state"),
        *table_ddl("rollout_policy", "model"),
        *table_ddl("rollout", "model", "release"),
        *table_ddl("traffic"),
    ):
        op.execute(statement)
