"""Storage commitment: who asked for which instances, and how far the answer got."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

# Written out here and not imported from the tables: a migration stays what it was when the tables move on.
IDENTIFIER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Make the table."""
    states = sa.Enum(
        "waiting", "delivered", "expired", name="state", native_enum=False, create_constraint=True, length=16
    )
    op.create_table(
        "commitment_request",
        sa.Column("id", IDENTIFIER, nullable=False),
        sa.Column("transaction_uid", sa.Text(), nullable=False),
        sa.Column("calling_ae_title", sa.Text(), nullable=False),
        sa.Column("source_address", sa.Text(), nullable=False),
        sa.Column("instances", sa.JSON(), nullable=False),
        sa.Column("uid_in_use", sa.Boolean(), nullable=False),
        sa.Column("state", states, nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("due_at", TIME, nullable=True),
        sa.Column("n_not_committed", sa.Integer(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("requested_at", TIME, nullable=False),
        sa.Column("expires_at", TIME, nullable=False),
        sa.Column("updated_at", TIME, nullable=False),
        sa.CheckConstraint(
            "(due_at IS NOT NULL) = (state = 'waiting')", name=op.f("ck_commitment_request_due_while_waiting")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_commitment_request")),
    )
    op.create_index(op.f("ix_commitment_request_state_due_at"), "commitment_request", ["state", "due_at"])
    op.create_index(op.f("ix_commitment_request_transaction_uid"), "commitment_request", ["transaction_uid"])


def downgrade() -> None:
    """Drop it."""
    op.drop_table("commitment_request")
