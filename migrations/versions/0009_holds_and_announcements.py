"""Series that a person holds, series of storage commitments, what is told once; indexes of hourly numbers."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

# Written out here and not imported from the tables: a migration stays what it was when the tables move on.
IDENTIFIER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Make the tables and indexes."""
    op.create_table(
        "series_hold",
        sa.Column("id", IDENTIFIER, nullable=False),
        sa.Column("series_id", IDENTIFIER, nullable=False),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("held_at", TIME, nullable=False),
        sa.Column("ended_at", TIME, nullable=True),
        sa.Column("ended_by", sa.Text(), nullable=True),
        sa.Column("end_reason", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["series_id"], ["series.id"], name=op.f("fk_series_hold_series_id_series")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_series_hold")),
    )
    op.create_index(op.f("ix_series_hold_series_id"), "series_hold", ["series_id"])
    op.create_index(
        "ix_series_hold_standing",
        "series_hold",
        ["series_id"],
        unique=True,
        sqlite_where=sa.text("ended_at IS NULL"),
        postgresql_where=sa.text("ended_at IS NULL"),
    )
    op.create_table(
        "commitment_series",
        sa.Column("commitment_id", IDENTIFIER, nullable=False),
        sa.Column("series_id", IDENTIFIER, nullable=False),
        sa.ForeignKeyConstraint(
            ["commitment_id"],
            ["commitment_request.id"],
            name=op.f("fk_commitment_series_commitment_id_commitment_request"),
        ),
        sa.ForeignKeyConstraint(["series_id"], ["series.id"], name=op.f("fk_commitment_series_series_id_series")),
        sa.PrimaryKeyConstraint("commitment_id", "series_id", name=op.f("pk_commitment_series")),
    )
    op.create_index(op.f("ix_commitment_series_series_id"), "commitment_series", ["series_id"])
    op.create_table(
        "announcement",
        sa.Column("id", IDENTIFIER, nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("summary", sa.Text(), nullable=False),
        sa.Column("remedy", sa.Text(), nullable=False),
        sa.Column("made_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_announcement")),
    )
    op.create_index(op.f("ix_announcement_made_at"), "announcement", ["made_at"])
    op.create_index(op.f("ix_judgement_judged_at"), "judgement", ["judged_at"])
    op.create_index(
        op.f("ix_delivery_state_updated_at_destination"), "delivery", ["state", "updated_at", "destination"]
    )
    op.drop_index(op.f("ix_delivery_state"), "delivery")


def downgrade() -> None:
    """Drop them again."""
    op.create_index(op.f("ix_delivery_state"), "delivery", ["state"])
    op.drop_index(op.f("ix_delivery_state_updated_at_destination"), "delivery")
    op.drop_index(op.f("ix_judgement_judged_at"), "judgement")
    op.drop_table("announcement")
    op.drop_table("commitment_series")
    op.drop_table("series_hold")
