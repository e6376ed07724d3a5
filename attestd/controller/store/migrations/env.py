"""Run by alembic: the connection is the caller's, in one transaction with its lock."""

from alembic import context

from attestd.controller.store.schema import METADATA

context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA)
with context.begin_transaction():
    context.run_migrations()
