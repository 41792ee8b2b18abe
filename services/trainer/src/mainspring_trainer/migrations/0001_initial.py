"""The trainer's first tables."""

from alembic import op

from mainspring_eventkit import schema as eventkit_schema
from mainspring_svckit import schema as svckit_schema
from mainspring_svckit.documents import table_ddl

revision = "0001"
down_revision = None


def upgrade() -> None:
    for statement in (
        *svckit_schema.V1,
        *eventkit_schema.V1,
        *table_ddl("tuning_recipe", "dataset"),
        *table_ddl("training_run", "dataset_version"),
        *table_ddl("training_metric"),
    ):
        op.execute(statement)
