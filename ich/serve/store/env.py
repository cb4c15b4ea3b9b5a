"""What Alembic runs to migrate the database that ``open_store`` has opened."""

from __future__ import annotations

from alembic import context

from ich.serve.store.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
