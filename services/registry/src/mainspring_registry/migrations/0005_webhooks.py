"""Webhook endpoints, and events on their way to them."""

from alembic import op

from mainspring_svckit.documents import table_ddl

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    for statement in (*table_ddl("webhook_endpoint"), *table_ddl("webhook_delivery")):
        op.execute(statement)
    # What has ended is forgotten after a while.
    op.execute(
        "CREATE INDEX webhook_delivery_ended ON webhook_delivery (update_time) WHERE body ->> 'state' <> 'PENDING'"
    )
