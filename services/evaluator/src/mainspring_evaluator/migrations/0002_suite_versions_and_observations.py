"""Versions of suites, more about answers, figures that others were asked for, and what people thought of answers."""

from alembic import op

from mainspring_svckit.documents import table_ddl

revision = "0002"
down_revision = "0001"

STATEMENTS = (
    # Seconds to the first token, tokens and passages, as JSON; NULL for answers from before they were kept.
    "ALTER TABLE generated_answer ADD COLUMN details text",
    """
    CREATE TABLE observation (
        project text NOT NULL,
        key text NOT NULL,
        value double precision NOT NULL,
        create_time timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (project, key)
    )
    """,
    # Runs are put side by side by what was asked.
    "CREATE INDEX evaluation_item_prompt ON evaluation_item (parent, (body ->> 'prompt_sha256'))",
    # Sampled answers to real people. Texts stand as JSON, which can hold whatever a model generates.
    """
    CREATE TABLE traffic_answer (
        name text PRIMARY KEY,
        project text NOT NULL,
        model text NOT NULL,
        model_version text NOT NULL,
        messages text NOT NULL,
        answer text NOT NULL,
        latency_s double precision NOT NULL,
        output_tokens integer NOT NULL,
        good boolean,
        create_time timestamptz NOT NULL DEFAULT now()
    )
    """,
    "CREATE INDEX traffic_answer_version ON traffic_answer (model_version, name)",
    "CREATE INDEX traffic_answer_judged ON traffic_answer (model, name) WHERE good IS NOT NULL",
)


def upgrade() -> None:
    for statement in (*STATEMENTS, *table_ddl("evaluation_suite_version")):
        op.execute(statement)
