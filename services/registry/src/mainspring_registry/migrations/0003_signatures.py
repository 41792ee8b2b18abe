"""What was registered before there were signatures is signed once."""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.execute(
        "INSERT INTO work (id, kind, key, payload) SELECT gen_random_uuid(), 'signatures', 'older', '{}'"
        " WHERE EXISTS (SELECT FROM model_version)"
    )
