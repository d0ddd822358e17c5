"""The log's tables, step by step: Alembic's folder."""
