"""Alembic's environment for every service; `mainspring_svckit.migrations` hands it an open connection."""

from alembic import context

context.configure(connection=context.config.attributes["connection"])
with context.begin_transaction():
    context.run_migrations()
