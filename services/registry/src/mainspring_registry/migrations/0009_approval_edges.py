"""Approvals in the lineage graph, those from before included."""

from alembic import op

revision = "0009"
down_revision = "0008"

KNOWN_APPROVALS = """
    INSERT INTO lineage_edge (project, source, target, relation)
    SELECT split_part(name, '/', 2), body ->> 'model_version', name, 'APPROVES' FROM approval ON CONFLICT DO NOTHING
"""


def upgrade() -> None:
    op.execute(KNOWN_APPROVALS)
