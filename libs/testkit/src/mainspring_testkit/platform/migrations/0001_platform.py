"""Tables of svckit and eventkit, and one table to write effects to."""

from alembic import op

from mainspring_eventkit import schema as eventkit_schema
from mainspring_svckit import schema as svckit_schema

revision = "0001"
down_revision = None


def upgrade() -> None:
    for statement in (*svckit_schema.V1, *eventkit_schema.V1):
        op.execute(statement)
    op.execute("CREATE TABLE effect (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, what text NOT NULL)")
