"""Run by Alembic: migrates over the connection that it was given, in that connection's transaction."""

from alembic import context

from bloodedge_fleet.database.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
