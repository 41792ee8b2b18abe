"""The evaluator's first tables."""

from alembic import op

from mainspring_eventkit import schema as eventkit_schema
from mainspring_svckit import schema as svckit_schema
from mainspring_svckit.documents import table_ddl

revision = "0001"
down_revision = None

ANSWERS = (
    """
    CREATE TABLE generated_answer (
        project text NOT NULL,
        key text NOT NULL,
        answer text NOT NULL,
        latency_s double precision NOT NULL,
        create_time timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (project, key)
    )
    """,
)


def upgrade() -> None:
    for statement in (
        *svckit_schema.V1,
        *eventkit_schema.V1,
        *table_ddl("evaluation_suite", "model"),
        *table_ddl("evaluation_run"),
        *table_ddl("evaluation_item"),
        *ANSWERS,
    ):
        op.execute(statement)
