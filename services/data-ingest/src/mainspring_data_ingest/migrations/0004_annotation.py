"""Annotation: queues, items, and who has which item."""

from alembic import op

from mainspring_svckit.documents import table_ddl

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    for statement in (
        *table_ddl("annotation_queue"),
        *table_ddl("annotation_item"),
        "ALTER TABLE annotation_item ADD COLUMN urgency double precision NOT NULL DEFAULT 0",
        "CREATE INDEX annotation_item_open ON annotation_item (parent, urgency DESC, sort_key)"
        " WHERE body ->> 'state' = 'OPEN'",
        """
        CREATE TABLE annotation_lease (
            item text NOT NULL REFERENCES annotation_item (name) ON DELETE CASCADE,
            queue text NOT NULL,
            annotator text NOT NULL,
            expire_time timestamptz NOT NULL,
            PRIMARY KEY (item, annotator)
        )
        """,
        "CREATE INDEX annotation_lease_holder ON annotation_lease (queue, annotator)",
    ):
        op.execute(statement)
