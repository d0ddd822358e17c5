"""Estimates and outcomes."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make both tables."""
    op.create_table(
        "estimates",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("variant", sa.String(40), nullable=False),
        sa.Column("model_sha256", sa.String(64)),
        sa.Column("assignment", sa.String(10), nullable=False),
        sa.Column("shadow_of", sa.String(32)),
        sa.Column("subject_sha256", sa.String(64), nullable=False),
        sa.Column("description", sa.Text),
        sa.Column("description_sha256", sa.String(64), nullable=False),
        sa.Column("category", sa.Text),
        sa.Column("kind", sa.String(10), nullable=False),
        sa.Column("estimate_usd", sa.Float, nullable=False),
        sa.Column("level", sa.Integer, nullable=False),
        sa.Column("low_usd", sa.Float),
        sa.Column("high_usd", sa.Float),
        sa.Column("calibrated", sa.Boolean, nullable=False),
        sa.Column("price_mass", sa.Float),
        sa.Column("truncated", sa.Boolean, nullable=False),
        sa.Column("expected_error_usd", sa.Float),
        sa.Column("quantiles_usd", sa.JSON),
        sa.Column("neighbors", sa.JSON),
        sa.Column("words_estimate_usd", sa.Float),
        sa.Column("fallback", sa.String(20)),
    )
    op.create_index("ix_estimates_created_at", "estimates", ["created_at"])
    op.create_index("ix_estimates_shadow_of", "estimates", ["shadow_of"])
    op.create_table(
        "outcomes",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("estimate_id", sa.String(32), sa.ForeignKey("estimates.id"), nullable=False),
        sa.Column("price_usd", sa.Float, nullable=False),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index("ix_outcomes_estimate_id", "outcomes", ["estimate_id"])
