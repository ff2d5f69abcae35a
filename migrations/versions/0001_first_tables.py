"""Patient to series, instances kept aside, jobs, judgements, deliveries and models: the first tables."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# Written out here and not imported from the tables: a migration stays what it was when the tables move on.
IDENTIFIER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TIME = sa.DateTime(timezone=True)


def state(*texts: str, name: str) -> sa.Enum[Any]:
    """Text with a CHECK that admits only `texts`."""
    return sa.Enum(*texts, name=name, native_enum=False, create_constraint=True, length=16)


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "model",
        sa.Column("model_id", sa.Text(), nullable=False),
        sa.Column("manifest", sa.JSON(), nullable=False),
        sa.Column("registered_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("model_id", name=op.f("pk_model")),
    )
    op.create_table(
        "patient",
        sa.Column("id", IDENTIFIER, nullable=False),
        sa.Column("patient_hash", sa.String(length=128), nullable=False),
        sa.Column("received_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_patient")),
        sa.UniqueConstraint("patient_hash", name=op.f("uq_patient_patient_hash")),
    )
    op.create_table(
        "quarantine",
        sa.Column("id", IDENTIFIER, nullable=False),
        sa.Column("spool_path", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("sop_instance_uid", sa.Text(), nullable=False),
        sa.Column("calling_ae_title", sa.Text(), nullable=False),
        sa.Column("source_address", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("received_at", TIME, nullable=False),
        sa.Column(
            "bytes_state",
            state("present", "deleting", "deleted", "lost", name="bytes_state"),
            server_default="present",
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_quarantine")),
        sa.UniqueConstraint("spool_path", name=op.f("uq_quarantine_spool_path")),
    )
    op.create_table(
        "study",
        sa.Column("id", IDENTIFIER, nullable=False),
        sa.Column("patient_id", IDENTIFIER, nullable=False),
        sa.Column("study_instance_uid", sa.Text(), nullable=False),
        sa.Column("study_date", sa.Text(), nullable=False),
        sa.Column("received_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(["patient_id"], ["patient.id"], name=op.f("fk_study_patient_id_patient")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_study")),
        sa.UniqueConstraint("study_instance_uid", name=op.f("uq_study_study_instance_uid")),
    )
    op.create_index(op.f("ix_study_patient_id"), "study", ["patient_id"])

    op.create_table(
        "series",
        sa.Column("id", IDENTIFIER, nullable=False),
        sa.Column("study_id", IDENTIFIER, nullable=False),
        sa.Column("series_instance_uid", sa.Text(), nullable=False),
        sa.Column("modality", sa.Text(), nullable=False),
        sa.Column("series_number", sa.BigInteger(), nullable=True),
        sa.Column("series_description", sa.Text(), nullable=False),
        sa.Column("protocol_name", sa.Text(), nullable=False),
        sa.Column("body_part_examined", sa.Text(), nullable=False),
        sa.Column("manufacturer", sa.Text(), nullable=False),
        sa.Column("manufacturer_model_name", sa.Text(), nullable=False),
        sa.Column("device_serial_number", sa.Text(), nullable=False),
        sa.Column("software_versions", sa.Text(), nullable=False),
        sa.Column("calling_ae_title", sa.Text(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column(
            "state",
            state("receiving", "complete", "judged", "not analysed", "failed", name="state"),
            nullable=False,
        ),
        sa.Column("not_analysed_reason", sa.Text(), nullable=True),
        sa.Column("judged_revision", sa.Integer(), nullable=True),
        sa.Column("first_received_at", TIME, nullable=False),
        sa.Column("last_received_at", TIME, nullable=False),
        sa.Column("completed_at", TIME, nullable=True),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name=op.f("fk_series_study_id_study")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_series")),
        sa.UniqueConstraint(
            "study_id", "series_instance_uid", name=op.f("uq_series_study_id_series_instance_uid")
        ),
    )
    op.create_index(op.f("ix_series_first_received_at"), "series", ["first_received_at"])
    op.create_index(op.f("ix_series_series_instance_uid"), "series", ["series_instance_uid"])
    op.create_index(op.f("ix_series_state_last_received_at"), "series", ["state", "last_received_at"])

    op.create_table(
        "delivery",
        sa.Column("id", IDENTIFIER, nullable=False),
        sa.Column("series_id", IDENTIFIER, nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("destination", sa.Text(), nullable=False),
        sa.Column(
            "state", state("pending", "delivered", "failed", "superseded", name="state"), nullable=False
        ),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("updated_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(["series_id"], ["series.id"], name=op.f("fk_delivery_series_id_series")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_delivery")),
        sa.UniqueConstraint(
            "series_id", "revision", "destination", name=op.f("uq_delivery_series_id_revision_destination")
        ),
    )
    op.create_index(op.f("ix_delivery_state"), "delivery", ["state"])

    op.create_table(
        "instance",
        sa.Column("id", IDENTIFIER, nullable=False),
        sa.Column("series_id", IDENTIFIER, nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("sop_instance_uid", sa.Text(), nullable=False),
        sa.Column("sop_class_uid", sa.Text(), nullable=False),
        sa.Column("transfer_syntax_uid", sa.Text(), nullable=False),
        sa.Column("spool_path", sa.Text(), nullable=False),
        sa.Column("checksum", sa.String(length=64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("instance_number", sa.BigInteger(), nullable=True),
        sa.Column("rows", sa.BigInteger(), nullable=True),
        sa.Column("columns", sa.BigInteger(), nullable=True),
        sa.Column("number_of_frames", sa.BigInteger(), nullable=True),
        sa.Column("image_type", sa.Text(), nullable=False),
        sa.Column("not_analysed_reason", sa.Text(), nullable=True),
        sa.Column("calling_ae_title", sa.Text(), nullable=False),
        sa.Column("source_address", sa.Text(), nullable=False),
        sa.Column("received_at", TIME, nullable=False),
        sa.Column(
            "bytes_state",
            state("present", "deleting", "deleted", "lost", name="bytes_state"),
            server_default="present",
            nullable=False,
        ),
        sa.Column("bytes_gone_at", TIME, nullable=True),
        sa.ForeignKeyConstraint(["series_id"], ["series.id"], name=op.f("fk_instance_series_id_series")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_instance")),
        sa.UniqueConstraint("sop_instance_uid", name=op.f("uq_instance_sop_instance_uid")),
        sa.UniqueConstraint("spool_path", name=op.f("uq_instance_spool_path")),
    )
    op.create_index(op.f("ix_instance_series_id_bytes_state"), "instance", ["series_id", "bytes_state"])
    in_question = sa.text("bytes_state IN ('deleting', 'lost')")
    op.create_index(
        "ix_instance_bytes_in_question",
        "instance",
        ["bytes_state", "id"],
        sqlite_where=in_question,
        postgresql_where=in_question,
    )

    op.create_table(
        "job",
        sa.Column("id", IDENTIFIER, nullable=False),
        sa.Column("kind", state("infer", "deliver", name="kind"), nullable=False),
        sa.Column(
            "state", state("ready", "leased", "done", "dead", "superseded", name="state"), nullable=False
        ),
        sa.Column("series_id", IDENTIFIER, nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("destination", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("due_at", TIME, nullable=True),
        sa.Column("lease_token", sa.String(length=32), nullable=True),
        sa.Column("worker", sa.Text(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("updated_at", TIME, nullable=False),
        sa.CheckConstraint(
            "(due_at IS NOT NULL) = (state IN ('ready', 'leased'))", name=op.f("ck_job_due_while_open")
        ),
        sa.CheckConstraint(
            "(lease_token IS NOT NULL) = (state = 'leased')", name=op.f("ck_job_token_while_leased")
        ),
        sa.ForeignKeyConstraint(["series_id"], ["series.id"], name=op.f("fk_job_series_id_series")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_job")),
        sa.UniqueConstraint(
            "series_id",
            "kind",
            "revision",
            "destination",
            name=op.f("uq_job_series_id_kind_revision_destination"),
        ),
    )
    op.create_index(op.f("ix_job_kind_state_due_at_id"), "job", ["kind", "state", "due_at", "id"])
    op.create_index(op.f("ix_job_state_id"), "job", ["state", "id"])

    op.create_table(
        "prediction",
        sa.Column("id", IDENTIFIER, nullable=False),
        sa.Column("series_id", IDENTIFIER, nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("model_id", sa.Text(), nullable=False),
        sa.Column("novel", sa.Boolean(), nullable=False),
        sa.Column("novelty_score", sa.Double(), nullable=True),
        sa.Column("n_slices", sa.Integer(), nullable=False),
        sa.Column("payload", sa.JSON(), nullable=False),
        sa.Column("predicted_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["model.model_id"], name=op.f("fk_prediction_model_id_model")),
        sa.ForeignKeyConstraint(["series_id"], ["series.id"], name=op.f("fk_prediction_series_id_series")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_prediction")),
        sa.UniqueConstraint(
            "series_id", "revision", "model_id", name=op.f("uq_prediction_series_id_revision_model_id")
        ),
    )
    op.create_index(op.f("ix_prediction_model_id"), "prediction", ["model_id"])
    op.create_index(op.f("ix_prediction_novel"), "prediction", ["novel"])

    op.create_table(
        "conflict",
        sa.Column("id", IDENTIFIER, nullable=False),
        sa.Column("instance_id", IDENTIFIER, nullable=False),
        sa.Column("study_instance_uid", sa.Text(), nullable=False),
        sa.Column("series_instance_uid", sa.Text(), nullable=False),
        sa.Column("sop_class_uid", sa.Text(), nullable=False),
        sa.Column("transfer_syntax_uid", sa.Text(), nullable=False),
        sa.Column("spool_path", sa.Text(), nullable=False),
        sa.Column("checksum", sa.String(length=64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("calling_ae_title", sa.Text(), nullable=False),
        sa.Column("source_address", sa.Text(), nullable=False),
        sa.Column("received_at", TIME, nullable=False),
        sa.Column(
            "bytes_state",
            state("present", "deleting", "deleted", "lost", name="bytes_state"),
            server_default="present",
            nullable=False,
        ),
        sa.ForeignKeyConstraint(
            ["instance_id"], ["instance.id"], name=op.f("fk_conflict_instance_id_instance")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_conflict")),
        sa.UniqueConstraint("instance_id", "checksum", name=op.f("uq_conflict_instance_id_checksum")),
    )
    op.create_table(
        "instance_delivery",
        sa.Column("instance_id", IDENTIFIER, nullable=False),
        sa.Column("destination", sa.Text(), nullable=False),
        sa.Column("accepted", sa.Boolean(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("comment", sa.Text(), nullable=False),
        sa.Column("answered_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["instance_id"], ["instance.id"], name=op.f("fk_instance_delivery_instance_id_instance")
        ),
        sa.PrimaryKeyConstraint("instance_id", "destination", name=op.f("pk_instance_delivery")),
    )
    op.create_table(
        "judgement",
        sa.Column("id", IDENTIFIER, nullable=False),
        sa.Column("series_id", IDENTIFIER, nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("prediction_id", IDENTIFIER, nullable=True),
        sa.Column("not_analysed_reason", sa.Text(), nullable=True),
        sa.Column("header", sa.JSON(), nullable=False),
        sa.Column("judged_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["prediction_id"], ["prediction.id"], name=op.f("fk_judgement_prediction_id_prediction")
        ),
        sa.ForeignKeyConstraint(["series_id"], ["series.id"], name=op.f("fk_judgement_series_id_series")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_judgement")),
        sa.UniqueConstraint("series_id", "revision", name=op.f("uq_judgement_series_id_revision")),
    )
    op.create_table(
        "header_comparison",
        sa.Column("id", IDENTIFIER, nullable=False),
        sa.Column("judgement_id", IDENTIFIER, nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("keyword", sa.String(length=64), nullable=False),
        sa.Column("header_value", sa.Text(), nullable=False),
        sa.Column("predicted_value", sa.Text(), nullable=False),
        sa.Column("header_probability", sa.Double(), nullable=True),
        sa.Column(
            "verdict", state("agrees", "contradicts", "missing", "not judged", name="verdict"), nullable=False
        ),
        sa.Column("suggested_value", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["judgement_id"], ["judgement.id"], name=op.f("fk_header_comparison_judgement_id_judgement")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_header_comparison")),
        sa.UniqueConstraint(
            "judgement_id", "keyword", name=op.f("uq_header_comparison_judgement_id_keyword")
        ),
    )
    op.create_index(op.f("ix_header_comparison_verdict_keyword"), "header_comparison", ["verdict", "keyword"])

    op.create_table(
        "instance_problem",
        sa.Column("id", IDENTIFIER, nullable=False),
        sa.Column("judgement_id", IDENTIFIER, nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("instance_id", IDENTIFIER, nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["instance_id"], ["instance.id"], name=op.f("fk_instance_problem_instance_id_instance")
        ),
        sa.ForeignKeyConstraint(
            ["judgement_id"], ["judgement.id"], name=op.f("fk_instance_problem_judgement_id_judgement")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_instance_problem")),
        sa.UniqueConstraint(
            "judgement_id", "position", name=op.f("uq_instance_problem_judgement_id_position")
        ),
    )
    op.create_index(op.f("ix_instance_problem_instance_id"), "instance_problem", ["instance_id"])

    op.create_table(
        "route_decision",
        sa.Column("id", IDENTIFIER, nullable=False),
        sa.Column("judgement_id", IDENTIFIER, nullable=False),
        sa.Column("domain", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("rules_version", sa.Text(), nullable=False),
        sa.Column("payload", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["judgement_id"], ["judgement.id"], name=op.f("fk_route_decision_judgement_id_judgement")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_route_decision")),
        sa.UniqueConstraint("judgement_id", name=op.f("uq_route_decision_judgement_id")),
    )
    op.create_index(op.f("ix_route_decision_domain"), "route_decision", ["domain"])


def downgrade() -> None:
    """Drop the tables, children first."""
    for table in (
        "route_decision",
        "instance_problem",
        "header_comparison",
        "judgement",
        "instance_delivery",
        "conflict",
        "prediction",
        "job",
        "instance",
        "delivery",
        "series",
        "study",
        "quarantine",
        "patient",
        "model",
    ):
        op.drop_table(table)
