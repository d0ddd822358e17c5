"""How Alembic runs a step: on the connection that `pricer.serving.log` has open."""

from alembic import context

connection = context.config.attributes["connection"]
# all of it or nothing, in SQLite too
context.configure(connection=connection, transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()
