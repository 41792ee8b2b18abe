"""Versions of recipes, which nobody can change. Each recipe that is there gets its first one."""

from alembic import op

from mainspring_svckit.documents import table_ddl

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
APPEND_ONLY = """
    CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION '% of % is refused: what stands there is kept for ever', TG_OP, TG_TABLE_NAME
            USING ERRCODE = 'integrity_constraint_violation';
    END $$
"""
KEPT = """
    CREATE TRIGGER ingestion_recipe_version_kept BEFORE UPDATE OR DELETE OR TRUNCATE ON ingestion_recipe_version
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()
"""


def upgrade() -> None:
    for statement in (
        *table_ddl("ingestion_recipe_version"),
        KNOWN_RECIPES,
        FIRST_VERSIONS,
        APPEND_ONLY,
        KEPT,
    ):
        op.execute(statement)
