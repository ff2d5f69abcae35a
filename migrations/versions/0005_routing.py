"""Routing that can be explained: the rules of every version, held series, what people did, shadow deliveries."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

# Written out here and not imported from the tables: a migration stays what it was when the tables move on.
IDENTIFIER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Make the tables and columns."""
    op.create_table(
        "routing_rules",
        sa.Column("version", sa.String(length=64), nullable=False),
        sa.Column("rules", sa.JSON(), nullable=False),
        sa.Column("first_used_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("version", name=op.f("pk_routing_rules")),
    )
    actions = sa.Enum("released", "rerouted", name="action", native_enum=False, create_constraint=True, length=16)
    op.create_table(
        "route_change",
        sa.Column("id", IDENTIFIER, nullable=False),
        sa.Column("judgement_id", IDENTIFIER, nullable=False),
        sa.Column("action", actions, nullable=False),
        sa.Column("destinations", sa.JSON(), nullable=False),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["judgement_id"], ["judgement.id"], name=op.f("fk_route_change_judgement_id_judgement")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_route_change")),
    )
    op.create_index(op.f("ix_route_change_judgement_id"), "route_change", ["judgement_id"])
    op.add_column("route_decision", sa.Column("held", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.create_index(
        "ix_route_decision_held",
        "route_decision",
        ["judgement_id"],
        sqlite_where=sa.text("held"),
        postgresql_where=sa.text("held"),
    )
    op.add_column("delivery", sa.Column("shadow", sa.Boolean(), server_default=sa.false(), nullable=False))


def downgrade() -> None:
    """Drop them again."""
    op.drop_column("delivery", "shadow")
    op.drop_index("ix_route_decision_held", "route_decision")
    op.drop_column("route_decision", "held")
    op.drop_table("route_change")
    op.drop_table("routing_rules")
