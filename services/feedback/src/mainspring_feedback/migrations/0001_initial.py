"""Feedback's first tables."""

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
        *table_ddl("answer"),
        *table_ddl("feedback_item", "answer"),
        *table_ddl("lesson", "answer"),
        *table_ddl("judged_model"),
        *table_ddl("retraining_trigger", "model"),
    ):
        op.execute(statement)
