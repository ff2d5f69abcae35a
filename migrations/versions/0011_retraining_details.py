"""What a retraining works with, who cancelled it, and what it found out."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

NEW_COLUMNS: tuple[tuple[str, sa.types.TypeEngine[object]], ...] = (
    ("work", sa.Text()),
    ("data_until", sa.DateTime(timezone=True)),
    ("cancelled_by", sa.Text()),
    ("report", sa.JSON()),
)


def upgrade() -> None:
    """Add the columns."""
    for name, kind in NEW_COLUMNS:
        op.add_column("retraining", sa.Column(name, kind, nullable=True))


def downgrade() -> None:
    """Drop them again."""
    for name, _ in reversed(NEW_COLUMNS):
        op.drop_column("retraining", name)
