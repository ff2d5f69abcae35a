"""Findings as work: findings with their events and the rules that dismiss them, stated protocols, corrected copies."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# Written out here and not imported from the tables: a migration stays what it was when the tables move on.
IDENTIFIER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TIME = sa.DateTime(timezone=True)
FINDING_STATES = ("open", "accepted", "dismissed", "corrected", "gone")


def state(*texts: str, name: str) -> sa.Enum[Any]:
    """Text with a CHECK that admits only `texts`."""
    return sa.Enum(*texts, name=name, native_enum=False, create_constraint=True, length=16)


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "dismissal_rule",
        sa.Column("id", IDENTIFIER, nullable=False),
        sa.Column("check_name", sa.String(length=64), nullable=False),
        sa.Column("element", sa.String(length=64), nullable=False),
        sa.Column("manufacturer", sa.Text(), nullable=False),
        sa.Column("manufacturer_model_name", sa.Text(), nullable=False),
        sa.Column("device_serial_number", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("made_by", sa.Text(), nullable=False),
        sa.Column("made_at", TIME, nullable=False),
        sa.Column("withdrawn_at", TIME, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_dismissal_rule")),
    )
    op.create_index(op.f("ix_dismissal_rule_check_name"), "dismissal_rule", ["check_name"])

    op.create_table(
        "finding",
        sa.Column("id", IDENTIFIER, nullable=False),
        sa.Column("series_id", IDENTIFIER, nullable=False),
        sa.Column("element", sa.String(length=64), nullable=False),
        sa.Column("check_name", sa.String(length=64), nullable=False),
        sa.Column(
            "kind",
            state(
                "missing",
                "representation",
                "value",
                "unit",
                "contradiction",
                "inconstant",
                "pixels",
                "deviation",
                "question",
                name="kind",
            ),
            nullable=False,
        ),
        sa.Column("severity", state("error", "warning", "note", name="severity"), nullable=False),
        sa.Column("raised_by", state("standard", "pixels", "habit", name="raised_by"), nullable=False),
        sa.Column("evidence", sa.Text(), nullable=False),
        sa.Column("raw", sa.Text(), nullable=False),
        sa.Column("suggested_value", sa.Text(), nullable=True),
        sa.Column("testimonies", sa.JSON(), nullable=False),
        sa.Column("conclusion", sa.Text(), nullable=False),
        sa.Column("state", state(*FINDING_STATES, name="state"), nullable=False),
        sa.Column("accepted_value", sa.Text(), nullable=True),
        sa.Column("rule_id", IDENTIFIER, nullable=True),
        sa.Column("first_revision", sa.Integer(), nullable=False),
        sa.Column("last_revision", sa.Integer(), nullable=False),
        sa.Column("found_at", TIME, nullable=False),
        sa.Column("updated_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(["rule_id"], ["dismissal_rule.id"], name=op.f("fk_finding_rule_id_dismissal_rule")),
        sa.ForeignKeyConstraint(["series_id"], ["series.id"], name=op.f("fk_finding_series_id_series")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_finding")),
        sa.UniqueConstraint("series_id", "element", "check_name", name=op.f("uq_finding_series_id_element_check_name")),
    )
    op.create_index(op.f("ix_finding_rule_id"), "finding", ["rule_id"])
    op.create_index(op.f("ix_finding_series_id_state"), "finding", ["series_id", "state"])
    inbox = ("state", "severity", "found_at", "id")
    for columns in ((*inbox, "kind", "raised_by", "series_id"), ("check_name", *inbox), ("element", *inbox)):
        op.create_index(op.f(f"ix_finding_{'_'.join(columns)}"), "finding", list(columns))

    op.create_table(
        "finding_event",
        sa.Column("id", IDENTIFIER, nullable=False),
        sa.Column("finding_id", IDENTIFIER, nullable=False),
        sa.Column("state", state(*FINDING_STATES, name="state"), nullable=False),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=True),
        sa.Column("at", TIME, nullable=False),
        sa.ForeignKeyConstraint(["finding_id"], ["finding.id"], name=op.f("fk_finding_event_finding_id_finding")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_finding_event")),
    )
    op.create_index(op.f("ix_finding_event_finding_id"), "finding_event", ["finding_id"])

    op.create_table(
        "stated_protocol",
        sa.Column("series_id", IDENTIFIER, nullable=False),
        sa.Column("study_id", IDENTIFIER, nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("software_versions", sa.Text(), nullable=False),
        sa.Column("protocol", sa.Text(), nullable=False),
        sa.Column("stated", sa.JSON(), nullable=False),
        sa.Column("stated_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(["series_id"], ["series.id"], name=op.f("fk_stated_protocol_series_id_series")),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name=op.f("fk_stated_protocol_study_id_study")),
        sa.PrimaryKeyConstraint("series_id", name=op.f("pk_stated_protocol")),
    )
    op.create_index(
        op.f("ix_stated_protocol_device_protocol_series_id"), "stated_protocol", ["device", "protocol", "series_id"]
    )
    op.create_index(op.f("ix_stated_protocol_study_id"), "stated_protocol", ["study_id"])

    op.create_table(
        "correction",
        sa.Column("id", IDENTIFIER, nullable=False),
        sa.Column("series_id", IDENTIFIER, nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("study_instance_uid", sa.Text(), nullable=False),
        sa.Column("series_instance_uid", sa.Text(), nullable=False),
        sa.Column("elements", sa.JSON(), nullable=False),
        sa.Column("n_instances", sa.Integer(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("made_by", sa.Text(), nullable=False),
        sa.Column("made_at", TIME, nullable=False),
        sa.Column("software_version", sa.String(length=64), nullable=False),
        sa.Column("finished_at", TIME, nullable=True),
        sa.ForeignKeyConstraint(["series_id"], ["series.id"], name=op.f("fk_correction_series_id_series")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_correction")),
    )
    op.create_index(op.f("ix_correction_series_id"), "correction", ["series_id"])
    op.add_column("instance_delivery", sa.Column("sent_sop_instance_uid", sa.Text(), nullable=True))


def downgrade() -> None:
    """Drop the tables, children first."""
    op.drop_column("instance_delivery", "sent_sop_instance_uid")
    for table in ("correction", "stated_protocol", "finding_event", "finding", "dismissal_rule"):
        op.drop_table(table)
