"""Migrations, run by alembic within `attestd.controller.store.engine.migrate`."""
