"""Files that were uploaded or fetched."""

from alembic import op

from mainspring_svckit.documents import table_ddl

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    for statement in table_ddl("upload"):
        op.execute(statement)
