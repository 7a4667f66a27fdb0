"""Alembic's hook: runs the revisions on the connection that `core.migrations.upgrade` hands over."""

from alembic import context

from core.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()
