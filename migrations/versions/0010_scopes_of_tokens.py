"""What a token opens: the API, or storing instances alone."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; tokens that stand are of the API."""
    op.add_column("api_token", sa.Column("scope", sa.String(length=16), server_default="api", nullable=False))


def downgrade() -> None:
    """Drop it again; tokens that store would become tokens of the API."""
    op.execute("DELETE FROM api_token WHERE scope = 'store'")
    op.drop_column("api_token", "scope")
