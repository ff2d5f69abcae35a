"""The life of a model: its state, what happened to it, and retraining."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

# Written out here and not imported from the tables: a migration stays what it was when the tables move on.
IDENTIFIER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TIME = sa.DateTime(timezone=True)
AT_WORK = sa.text("state IN ('champion', 'shadow')")
UNDER_WAY = sa.text("under_way")
EVENTS = (
    "registered",
    "gates_passed",
    "gates_failed",
    "shadow_begun",
    "shadow_ended",
    "shadow_failed",
    "promoted",
    "rolled_back",
    "restored",
    "retired",
    "not_loaded",
    "loaded_again",
)
RUNS = ("requested", "running", "succeeded", "refused", "failed", "interrupted")
NEW_COLUMNS: tuple[tuple[str, sa.types.TypeEngine[object]], ...] = (
    ("folder", sa.Text()),
    ("manifest_sha256", sa.String(length=64)),
    ("gates", sa.JSON()),
    ("provenance", sa.JSON()),
    ("parent_id", sa.Text()),
    ("predecessor_id", sa.Text()),
    ("shadow_series", sa.Integer()),
    ("shadow_begun_at", TIME),
    ("shadow_ended_at", TIME),
)


def upgrade() -> None:
    """Make the tables and columns. Models that were at work are retired, until the infer role finds its package."""
    # In SQL of both databases: Alembic adds no column with a CHECK to a table of SQLite, and to copy the table would
    # take its rows from under the predictions that name them.
    op.execute(
        "ALTER TABLE model ADD COLUMN state VARCHAR(16) DEFAULT 'retired' NOT NULL "
        "CONSTRAINT ck_model_state CHECK (state IN ('candidate', 'shadow', 'champion', 'retired', 'refused'))"
    )
    for name, kind in NEW_COLUMNS:
        op.add_column("model", sa.Column(name, kind, nullable=True))
    op.create_index(
        "ix_model_at_work", "model", ["state"], unique=True, sqlite_where=AT_WORK, postgresql_where=AT_WORK
    )
    events = sa.Enum(*EVENTS, name="event", native_enum=False, create_constraint=True, length=16)
    op.create_table(
        "model_event",
        sa.Column("id", IDENTIFIER, nullable=False),
        sa.Column("model_id", sa.Text(), nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("event", events, nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("details", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["model.model_id"], name=op.f("fk_model_event_model_id_model")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_model_event")),
    )
    op.create_index(op.f("ix_model_event_model_id"), "model_event", ["model_id"])
    states = sa.Enum(*RUNS, name="state", native_enum=False, create_constraint=True, length=16)
    op.create_table(
        "retraining",
        sa.Column("id", IDENTIFIER, nullable=False),
        sa.Column("state", states, nullable=False),
        sa.Column("under_way", sa.Boolean(), nullable=False),
        sa.Column("requested_by", sa.Text(), nullable=False),
        sa.Column("requested_at", TIME, nullable=False),
        sa.Column("started_at", TIME, nullable=True),
        sa.Column("heartbeat_at", TIME, nullable=True),
        sa.Column("ended_at", TIME, nullable=True),
        sa.Column("stage", sa.Text(), nullable=False),
        sa.Column("progress", sa.Double(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("champion_model_id", sa.Text(), nullable=True),
        sa.Column("candidate_model_id", sa.Text(), nullable=True),
        sa.Column("host", sa.Text(), nullable=True),
        sa.Column("pid", sa.Integer(), nullable=True),
        sa.CheckConstraint("under_way = (state IN ('requested', 'running'))", name=op.f("ck_retraining_under_way")),
        sa.CheckConstraint(
            "(ended_at IS NULL) = (state IN ('requested', 'running'))", name=op.f("ck_retraining_ended")
        ),
        sa.CheckConstraint("progress BETWEEN 0 AND 1", name=op.f("ck_retraining_progress")),
        sa.ForeignKeyConstraint(
            ["champion_model_id"], ["model.model_id"], name=op.f("fk_retraining_champion_model_id_model")
        ),
        sa.ForeignKeyConstraint(
            ["candidate_model_id"], ["model.model_id"], name=op.f("fk_retraining_candidate_model_id_model")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_retraining")),
    )
    op.create_index(
        "ix_retraining_under_way",
        "retraining",
        ["under_way"],
        unique=True,
        sqlite_where=UNDER_WAY,
        postgresql_where=UNDER_WAY,
    )


def downgrade() -> None:
    """Drop them again."""
    op.drop_table("retraining")
    op.drop_table("model_event")
    op.drop_index("ix_model_at_work", "model")
    for name, _ in reversed(NEW_COLUMNS):
        op.drop_column("model", name)
    op.drop_column("model", "state")
