"""Questions of runs, parted among replicas."""

from alembic import op

revision = "0004"
down_revision = "0003"

STATEMENTS = (
    # `body` is JSON in a text column, which can hold whatever a question holds; `open` until the work on it has ended.
    """
    CREATE TABLE answer_shard (
        name text PRIMARY KEY,
        run text NOT NULL,
        stage text NOT NULL,
        body text NOT NULL,
        questions integer NOT NULL,
        answered integer NOT NULL DEFAULT 0,
        generated integer NOT NULL DEFAULT 0,
        input_tokens bigint NOT NULL DEFAULT 0,
        output_tokens bigint NOT NULL DEFAULT 0,
        open boolean NOT NULL DEFAULT true,
        reason text,
        message text,
        create_time timestamptz NOT NULL DEFAULT now()
    )
    """,
    "CREATE INDEX answer_shard_run ON answer_shard (run)",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
