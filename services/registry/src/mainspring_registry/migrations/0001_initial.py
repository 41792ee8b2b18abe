"""The registry's first tables."""

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
        *table_ddl("model"),
        *table_ddl("model_version", "model", "training_run"),
        *table_ddl("model_import"),
        *table_ddl("release_policy", "model"),
        *table_ddl("gate_decision"),
        *table_ddl("release"),
        *table_ddl("cycle"),
    ):
        op.execute(statement)
