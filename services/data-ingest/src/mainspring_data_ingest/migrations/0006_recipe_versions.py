"""Versions of recipes, which nobody can change. Each recipe that is there gets its first one."""

from alembic import op

from mainspring_svckit.documents import REFUSE_CHANGE, kept_ddl, table_ddl

revision = "0006"
down_revision = "0005"

KNOWN_RECIPES = """
    UPDATE ingestion_recipe SET body = body || jsonb_build_object('version', 1)
"""
FIRST_VERSIONS = """
    INSERT INTO ingestion_recipe_version (name, parent, sort_key, body)
    SELECT name || '/versions/1', name, '000000001',
        jsonb_build_object('name', name || '/versions/1', 'recipe', body, 'create_time', update_time)
    FROM ingestion_recipe
"""


def upgrade() -> None:
    for statement in (
        *table_ddl("ingestion_recipe_version"),
        KNOWN_RECIPES,
        FIRST_VERSIONS,
        REFUSE_CHANGE,
        kept_ddl("ingestion_recipe_version"),
    ):
        op.execute(statement)
