"""Evidence, approvals and histories; what is written for ever cannot be changed, whoever asks the database."""

from alembic import op

from mainspring_svckit.documents import REFUSE_CHANGE, kept_ddl, table_ddl

revision = "0006"
down_revision = "0005"

# Evidence as decisions kept it before; an empty suite stands for the policy's primary one.
KNOWN_EVIDENCE = """
    INSERT INTO evidence (name, parent, sort_key, body)
    SELECT DISTINCT ON (body -> 'evidence' ->> 'evaluation_run')
        body -> 'evidence' ->> 'evaluation_run', body ->> 'model_version', body -> 'evidence' ->> 'evaluation_run',
        jsonb_build_object('name', body -> 'evidence' ->> 'evaluation_run', 'model_version', body ->> 'model_version',
            'suite', '', 'evidence', body -> 'evidence', 'cycle', body ->> 'cycle',
            'create_time', body ->> 'create_time')
    FROM gate_decision ORDER BY body -> 'evidence' ->> 'evaluation_run', name
"""


def upgrade() -> None:
    for statement in (
        *table_ddl("evidence", "model_version"),
        *table_ddl("approval", "model_version"),
        *table_ddl("history"),
        *table_ddl("prompt"),
        *table_ddl("prompt_version"),
        KNOWN_EVIDENCE,
        REFUSE_CHANGE,
        *map(kept_ddl, ("evidence", "approval", "history", "gate_decision", "prompt_version")),
        *(kept_ddl(table, "DELETE OR TRUNCATE") for table in ("model_version", "release", "model")),
    ):
        op.execute(statement)
