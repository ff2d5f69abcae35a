"""Alembic's environment: migrates the connection that `iap_node.database.engine.migrate` hands over."""

from alembic import context

from iap_node.database.tables import Table

connection = context.config.attributes.get("connection")
if connection is None:
    raise RuntimeError(
        "migrations run through iap_node.database.engine.migrate(), which hands over a connection"
    )

# render_as_batch: SQLite alters a table by copying it.
context.configure(connection=connection, target_metadata=Table.metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
