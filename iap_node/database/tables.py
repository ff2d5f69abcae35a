"""The tables, declaratively. Queries stand in the modules of this package, and nowhere else.

Alembic's migrations in `migrations/` make these tables; a test compares the two on both databases. Every time
is an aware UTC datetime. No column holds a patient's name, number or birth date: a patient is a keyed hash.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    CheckConstraint,
    Enum,
    ForeignKey,
    Index,
    MetaData,
    String,
    Text,
    UniqueConstraint,
    false,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from iap_node.database.columns import HeaderInteger, HeaderText, Identifier, UtcDateTime, state_column
from iap_node.records import (
    FindingKind,
    FindingState,
    JobKind,
    JobState,
    Role,
    SeriesState,
    Severity,
    TokenScope,
    Verdict,
    Witness,
)


class DeliveryState(StrEnum):
    """How far a revision of a series got with one destination."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"  # its DELIVER job is a dead letter
    SUPERSEDED = "superseded"  # a later revision takes its instances along


class RouteAction(StrEnum):
    """What a person did about a route."""

    RELEASED = "released"  # a held series goes where the rules would have sent it
    REROUTED = "rerouted"  # it goes where the person says


class BytesState(StrEnum):
    """Whether the spool has the bytes that a row names."""

    PRESENT = "present"
    DELETING = "deleting"  # retention has decided: the file goes at any moment, or is gone
    DELETED = "deleted"  # by retention; everything that was found out stays
    LOST = "lost"  # `iap-node fsck --repair` did not find them, or found others


class CommitmentState(StrEnum):
    """How far the answer to a storage commitment request got."""

    WAITING = "waiting"  # to be reported
    DELIVERED = "delivered"  # the requestor has the report
    EXPIRED = "expired"  # it could not be told in time


class ModelState(StrEnum):
    """What a model package is to this node."""

    CANDIDATE = "candidate"  # may be put into shadow or promoted
    SHADOW = "shadow"  # predicts beside the champion, and decides nothing
    CHAMPION = "champion"  # the one whose predictions count
    RETIRED = "retired"  # was champion, or was laid aside; may come back
    REFUSED = "refused"  # failed a gate: it never decides anything


class ModelEventKind(StrEnum):
    """What happened to a model package."""

    REGISTERED = "registered"
    GATES_PASSED = "gates_passed"
    GATES_FAILED = "gates_failed"
    SHADOW_BEGUN = "shadow_begun"
    SHADOW_ENDED = "shadow_ended"
    SHADOW_FAILED = "shadow_failed"  # it could not predict a series beside the champion
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled_back"  # another became champion again in its place
    RESTORED = "restored"  # it became champion again
    RETIRED = "retired"
    NOT_LOADED = "not_loaded"  # a worker could not load its package, and keeps the model that it had
    LOADED_AGAIN = "loaded_again"  # the same worker could, later


class RetrainingState(StrEnum):
    """How far a retraining got."""

    REQUESTED = "requested"
    RUNNING = "running"
    SUCCEEDED = "succeeded"  # a candidate is registered
    REFUSED = "refused"  # a model came out of it, and a gate refused it; or there was nothing new to learn from
    FAILED = "failed"
    INTERRUPTED = "interrupted"  # its process is gone


class Table(DeclarativeBase):
    """Base of all tables; names every constraint, so that migrations can refer to them on both databases."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        datetime: UtcDateTime,
        str: Text,
        dict[str, Any]: JSON,
        list[Any]: JSON,
    }


class PatientRow(Table):
    """A patient as a keyed hash of Patient ID (0010,0020) and its issuer."""

    __tablename__ = "patient"

    id: Mapped[int] = mapped_column(Identifier, primary_key=True)
    patient_hash: Mapped[str] = mapped_column(String(128), unique=True)
    received_at: Mapped[datetime]  # of the first instance


class StudyRow(Table):
    """A study; it stays with the patient it first came with."""

    __tablename__ = "study"

    id: Mapped[int] = mapped_column(Identifier, primary_key=True)
    patient_id: Mapped[int] = mapped_column(ForeignKey("patient.id"), index=True)
    study_instance_uid: Mapped[str] = mapped_column(HeaderText, unique=True)
    study_date: Mapped[str] = mapped_column(HeaderText)  # as written: real headers hold "***"
    received_at: Mapped[datetime]


class SeriesRow(Table):
    """A series of one study. A Series Instance UID that appears in two studies is two series."""

    __tablename__ = "series"
    __table_args__ = (
        UniqueConstraint("study_id", "series_instance_uid"),
        Index(None, "state", "last_received_at"),  # complete_quiet_series, status
    )

    id: Mapped[int] = mapped_column(Identifier, primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("study.id"))
    series_instance_uid: Mapped[str] = mapped_column(HeaderText, index=True)
    modality: Mapped[str] = mapped_column(HeaderText)
    series_number: Mapped[int | None] = mapped_column(HeaderInteger)
    series_description: Mapped[str] = mapped_column(HeaderText)
    protocol_name: Mapped[str] = mapped_column(HeaderText)
    body_part_examined: Mapped[str] = mapped_column(HeaderText)
    manufacturer: Mapped[str] = mapped_column(HeaderText)
    manufacturer_model_name: Mapped[str] = mapped_column(HeaderText)
    device_serial_number: Mapped[str] = mapped_column(HeaderText)
    software_versions: Mapped[str] = mapped_column(HeaderText)
    calling_ae_title: Mapped[str] = mapped_column(HeaderText)  # of the first instance
    revision: Mapped[int]  # 1 at first; +1 whenever an instance comes after completion, or it is judged again
    state: Mapped[SeriesState] = mapped_column(state_column(SeriesState, "state"))
    not_analysed_reason: Mapped[str | None] = mapped_column(HeaderText)
    judged_revision: Mapped[int | None]  # the newest revision with a judgement
    first_received_at: Mapped[datetime] = mapped_column(index=True)
    last_received_at: Mapped[datetime]
    completed_at: Mapped[datetime | None]  # None while receiving


# Instances that retention or fsck is about to come back to: few of many, so that an index of them costs nothing.
BYTES_IN_QUESTION = text("bytes_state IN ('deleting', 'lost')")


class InstanceRow(Table):
    """An instance; its bytes lie in the spool while `bytes_state` says so.

    `spool_path` is kept when they are gone: a file that a power cut brings back is not taken for a new one.
    """

    __tablename__ = "instance"
    __table_args__ = (
        Index(None, "series_id", "bytes_state"),
        Index(
            "ix_instance_bytes_in_question",
            "bytes_state",
            "id",
            sqlite_where=BYTES_IN_QUESTION,
            postgresql_where=BYTES_IN_QUESTION,
        ),
    )

    id: Mapped[int] = mapped_column(Identifier, primary_key=True)
    series_id: Mapped[int] = mapped_column(ForeignKey("series.id"))
    revision: Mapped[int]  # of the series, with which it came
    sop_instance_uid: Mapped[str] = mapped_column(HeaderText, unique=True)
    sop_class_uid: Mapped[str] = mapped_column(HeaderText)
    transfer_syntax_uid: Mapped[str] = mapped_column(HeaderText)
    spool_path: Mapped[str] = mapped_column(unique=True)  # two rows never share a file
    checksum: Mapped[str] = mapped_column(String(64))
    size_bytes: Mapped[int] = mapped_column(HeaderInteger)
    instance_number: Mapped[int | None] = mapped_column(HeaderInteger)
    rows: Mapped[int | None] = mapped_column(HeaderInteger)
    columns: Mapped[int | None] = mapped_column(HeaderInteger)
    number_of_frames: Mapped[int | None] = mapped_column(HeaderInteger)
    image_type: Mapped[str] = mapped_column(HeaderText)
    not_analysed_reason: Mapped[str | None] = mapped_column(HeaderText)
    calling_ae_title: Mapped[str] = mapped_column(HeaderText)
    source_address: Mapped[str] = mapped_column(HeaderText)
    received_at: Mapped[datetime]
    bytes_state: Mapped[BytesState] = mapped_column(
        state_column(BytesState, "bytes_state"), server_default=BytesState.PRESENT
    )
    bytes_gone_at: Mapped[datetime | None]  # when they were deleted, or found lost


class ConflictRow(Table):
    """Other bytes under a SOP Instance UID that is already here; kept aside, never used."""

    __tablename__ = "conflict"
    __table_args__ = (UniqueConstraint("instance_id", "checksum"),)

    id: Mapped[int] = mapped_column(Identifier, primary_key=True)
    instance_id: Mapped[int] = mapped_column(ForeignKey("instance.id"))  # the one that stands
    study_instance_uid: Mapped[str] = mapped_column(HeaderText)  # as the newcomer claims
    series_instance_uid: Mapped[str] = mapped_column(HeaderText)
    sop_class_uid: Mapped[str] = mapped_column(HeaderText)
    transfer_syntax_uid: Mapped[str] = mapped_column(HeaderText)
    spool_path: Mapped[str]
    checksum: Mapped[str] = mapped_column(String(64))
    size_bytes: Mapped[int] = mapped_column(HeaderInteger)
    calling_ae_title: Mapped[str] = mapped_column(HeaderText)
    source_address: Mapped[str] = mapped_column(HeaderText)
    received_at: Mapped[datetime]
    bytes_state: Mapped[BytesState] = mapped_column(
        state_column(BytesState, "bytes_state"), server_default=BytesState.PRESENT
    )


class QuarantineRow(Table):
    """Bytes that could not be filed, with the reason."""

    __tablename__ = "quarantine"

    id: Mapped[int] = mapped_column(Identifier, primary_key=True)
    spool_path: Mapped[str] = mapped_column(unique=True)
    reason: Mapped[str] = mapped_column(HeaderText)
    sop_instance_uid: Mapped[str] = mapped_column(HeaderText)
    calling_ae_title: Mapped[str] = mapped_column(HeaderText)
    source_address: Mapped[str] = mapped_column(HeaderText)
    size_bytes: Mapped[int] = mapped_column(HeaderInteger)
    received_at: Mapped[datetime]
    bytes_state: Mapped[BytesState] = mapped_column(
        state_column(BytesState, "bytes_state"), server_default=BytesState.PRESENT
    )


class JobRow(Table):
    """A piece of work: judge a revision of a series, or deliver it to one destination.

    `due_at` says when it may be claimed: READY not before it, LEASED when the lease has run out; NULL when
    the job is over. One column for both lets the claim walk along one index.
    """

    __tablename__ = "job"
    __table_args__ = (
        UniqueConstraint("series_id", "kind", "revision", "destination"),
        CheckConstraint("(due_at IS NOT NULL) = (state IN ('ready', 'leased'))", name="due_while_open"),
        CheckConstraint("(lease_token IS NOT NULL) = (state = 'leased')", name="token_while_leased"),
        Index(None, "kind", "state", "due_at", "id"),  # claim
        Index(None, "state", "id"),  # dead letters, status
    )

    id: Mapped[int] = mapped_column(Identifier, primary_key=True)
    kind: Mapped[JobKind] = mapped_column(state_column(JobKind, "kind"))
    state: Mapped[JobState] = mapped_column(state_column(JobState, "state"))
    series_id: Mapped[int] = mapped_column(ForeignKey("series.id"))
    revision: Mapped[int]
    destination: Mapped[str] = mapped_column(HeaderText)  # name in config.yaml; "" for INFER
    attempts: Mapped[int]
    due_at: Mapped[datetime | None]
    lease_token: Mapped[str | None] = mapped_column(String(32))
    worker: Mapped[str | None] = mapped_column(HeaderText)  # that has it, or had it last
    error: Mapped[str | None] = mapped_column(HeaderText)  # of the last failed attempt
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


# One model is champion and one in shadow at most: a unique index over `state` of these alone.
MODEL_AT_WORK = text("state IN ('champion', 'shadow')")


class ModelRow(Table):
    """A model package, and what it is to this node. `database.models` alone changes its state.

    `parent_id` and `predecessor_id` are no foreign keys: a package from elsewhere names a parent that was never here.
    """

    __tablename__ = "model"
    __table_args__ = (
        Index("ix_model_at_work", "state", unique=True, sqlite_where=MODEL_AT_WORK, postgresql_where=MODEL_AT_WORK),
    )

    model_id: Mapped[str] = mapped_column(HeaderText, primary_key=True)
    manifest: Mapped[dict[str, Any]]
    registered_at: Mapped[datetime]
    state: Mapped[ModelState] = mapped_column(state_column(ModelState, "state"), server_default=ModelState.RETIRED)
    folder: Mapped[str | None]  # of its package, below the data directory; None: it is not here
    manifest_sha256: Mapped[str | None] = mapped_column(String(64))  # of model.json
    gates: Mapped[list[Any] | None]  # `models.Gate` each; None: no gates were asked
    provenance: Mapped[dict[str, Any] | None]  # how it came here; the package's own stands in the manifest
    parent_id: Mapped[str | None] = mapped_column(HeaderText)  # the model that its training began with
    predecessor_id: Mapped[str | None] = mapped_column(HeaderText)  # champion before it: where a roll-back leads
    shadow_series: Mapped[int | None]  # for how many series it is, or was last, in shadow
    shadow_begun_at: Mapped[datetime | None]
    shadow_ended_at: Mapped[datetime | None]


class ModelEventRow(Table):
    """What happened to a model, and who did it; rows are only ever added."""

    __tablename__ = "model_event"

    id: Mapped[int] = mapped_column(Identifier, primary_key=True)
    model_id: Mapped[str] = mapped_column(ForeignKey("model.model_id"), index=True)
    at: Mapped[datetime]
    who: Mapped[str] = mapped_column(HeaderText)  # a person's name, or what of the node: "infer", "retraining 3"
    event: Mapped[ModelEventKind] = mapped_column(state_column(ModelEventKind, "event"))
    reason: Mapped[str] = mapped_column(HeaderText)
    details: Mapped[dict[str, Any]]


class RetrainingRow(Table):
    """One retraining, from the request to its end. `under_way` lets one be requested or running at most."""

    __tablename__ = "retraining"
    __table_args__ = (
        CheckConstraint("under_way = (state IN ('requested', 'running'))", name="under_way"),
        CheckConstraint("(ended_at IS NULL) = (state IN ('requested', 'running'))", name="ended"),
        CheckConstraint("progress BETWEEN 0 AND 1", name="progress"),
        Index(
            "ix_retraining_under_way",
            "under_way",
            unique=True,
            sqlite_where=text("under_way"),
            postgresql_where=text("under_way"),
        ),
    )

    id: Mapped[int] = mapped_column(Identifier, primary_key=True)
    state: Mapped[RetrainingState] = mapped_column(state_column(RetrainingState, "state"))
    under_way: Mapped[bool]
    requested_by: Mapped[str] = mapped_column(HeaderText)  # a person's name, or "schedule"
    requested_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    heartbeat_at: Mapped[datetime | None]  # of the process that runs it
    ended_at: Mapped[datetime | None]
    stage: Mapped[str] = mapped_column(HeaderText)  # "preparing", "training", "evaluating"
    progress: Mapped[float]  # 0 to 1, over all stages
    message: Mapped[str] = mapped_column(HeaderText)  # for people: what it is at, or why it ended as it did
    champion_model_id: Mapped[str | None] = mapped_column(ForeignKey("model.model_id"))  # when it began
    candidate_model_id: Mapped[str | None] = mapped_column(ForeignKey("model.model_id"))
    host: Mapped[str | None] = mapped_column(HeaderText)
    pid: Mapped[int | None]
    work: Mapped[str | None]  # folder below the one for trainings; what resumes an interrupted run has the same
    data_until: Mapped[datetime | None]  # series that were complete by then were looked at
    cancelled_by: Mapped[str | None] = mapped_column(HeaderText)  # a person; its process ends as soon as it sees this
    report: Mapped[dict[str, Any] | None]  # data set, guards, gates: what it found out, as far as it came


class PredictionRow(Table):
    """What one model says of one revision of a series; `payload` is the whole `SeriesPrediction`."""

    __tablename__ = "prediction"
    __table_args__ = (UniqueConstraint("series_id", "revision", "model_id"),)

    id: Mapped[int] = mapped_column(Identifier, primary_key=True)
    series_id: Mapped[int] = mapped_column(ForeignKey("series.id"))
    revision: Mapped[int]
    model_id: Mapped[str] = mapped_column(ForeignKey("model.model_id"), index=True)
    novel: Mapped[bool] = mapped_column(index=True)
    novelty_score: Mapped[float | None]  # None: not a finite number; `payload` has it as it was
    n_slices: Mapped[int]
    payload: Mapped[dict[str, Any]]
    predicted_at: Mapped[datetime]


class JudgementRow(Table):
    """One revision of a series, judged: what its headers state, and the prediction held against it."""

    __tablename__ = "judgement"
    __table_args__ = (UniqueConstraint("series_id", "revision"),)

    id: Mapped[int] = mapped_column(Identifier, primary_key=True)
    series_id: Mapped[int] = mapped_column(ForeignKey("series.id"))
    revision: Mapped[int]
    prediction_id: Mapped[int | None] = mapped_column(ForeignKey("prediction.id"))
    not_analysed_reason: Mapped[str | None] = mapped_column(HeaderText)
    header: Mapped[dict[str, Any]]  # the whole `SeriesHeader`
    judged_at: Mapped[datetime] = mapped_column(index=True)


class InstanceProblemRow(Table):
    """An instance whose pixels or header could not be used in a judgement, and why."""

    __tablename__ = "instance_problem"
    __table_args__ = (UniqueConstraint("judgement_id", "position"),)

    id: Mapped[int] = mapped_column(Identifier, primary_key=True)
    judgement_id: Mapped[int] = mapped_column(ForeignKey("judgement.id"))
    position: Mapped[int]
    instance_id: Mapped[int] = mapped_column(ForeignKey("instance.id"), index=True)
    reason: Mapped[str] = mapped_column(HeaderText)


class HeaderComparisonRow(Table):
    """One parameter of a judgement: header against pixels."""

    __tablename__ = "header_comparison"
    __table_args__ = (
        UniqueConstraint("judgement_id", "keyword"),
        Index(None, "verdict", "keyword"),  # findings
    )

    id: Mapped[int] = mapped_column(Identifier, primary_key=True)
    judgement_id: Mapped[int] = mapped_column(ForeignKey("judgement.id"))
    position: Mapped[int]  # in the judgement, from 0
    keyword: Mapped[str] = mapped_column(String(64))
    header_value: Mapped[str] = mapped_column(HeaderText)
    predicted_value: Mapped[str] = mapped_column(HeaderText)
    header_probability: Mapped[float | None]
    verdict: Mapped[Verdict] = mapped_column(state_column(Verdict, "verdict"))
    suggested_value: Mapped[str] = mapped_column(HeaderText)
    reason: Mapped[str] = mapped_column(HeaderText)


class FindingRow(Table):
    """One finding of a series: what a witness has against an element, and what people made of it.

    A new revision updates it; it is never repeated. Its events stand in `finding_event`.
    """

    __tablename__ = "finding"
    __table_args__ = (
        UniqueConstraint("series_id", "element", "check_name"),
        Index(None, "series_id", "state"),  # how many of a series are open
        # the inbox: the newest first of each severity, all of them, of one check, of one element; what else is asked
        # for rarely finds few, and is looked for in the index alone
        Index(None, "state", "severity", "found_at", "id", "kind", "raised_by", "series_id"),
        Index(None, "check_name", "state", "severity", "found_at", "id"),
        Index(None, "element", "state", "severity", "found_at", "id"),
    )

    id: Mapped[int] = mapped_column(Identifier, primary_key=True)
    series_id: Mapped[int] = mapped_column(ForeignKey("series.id"))
    element: Mapped[str] = mapped_column(String(64))  # DICOM keyword
    check_name: Mapped[str] = mapped_column(String(64))
    kind: Mapped[FindingKind] = mapped_column(state_column(FindingKind, "kind"))
    severity: Mapped[Severity] = mapped_column(state_column(Severity, "severity"))
    raised_by: Mapped[Witness] = mapped_column(state_column(Witness, "raised_by"))
    evidence: Mapped[str] = mapped_column(HeaderText)
    raw: Mapped[str] = mapped_column(HeaderText)
    suggested_value: Mapped[str | None] = mapped_column(HeaderText)
    testimonies: Mapped[list[Any]]  # of `Testimony`
    conclusion: Mapped[str] = mapped_column(HeaderText, default="")  # what the witnesses make of it together
    state: Mapped[FindingState] = mapped_column(state_column(FindingState, "state"))
    accepted_value: Mapped[str | None] = mapped_column(HeaderText)  # what a person takes for right
    rule_id: Mapped[int | None] = mapped_column(ForeignKey("dismissal_rule.id"), index=True)  # that dismissed it
    first_revision: Mapped[int]
    last_revision: Mapped[int]  # the newest that showed it
    found_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class FindingEventRow(Table):
    """What happened to a finding, and who did it; rows are only ever added."""

    __tablename__ = "finding_event"

    id: Mapped[int] = mapped_column(Identifier, primary_key=True)
    finding_id: Mapped[int] = mapped_column(ForeignKey("finding.id"), index=True)
    state: Mapped[FindingState] = mapped_column(state_column(FindingState, "state"))  # from then on
    who: Mapped[str] = mapped_column(HeaderText)  # a person's name, or what of the node: "audit", "rule 7"
    reason: Mapped[str] = mapped_column(HeaderText)
    value: Mapped[str | None] = mapped_column(HeaderText)  # that was accepted or written
    at: Mapped[datetime]


class DismissalRuleRow(Table):
    """This check, on this scanner, is no fault: what it finds is dismissed at once. "" stands for any."""

    __tablename__ = "dismissal_rule"

    id: Mapped[int] = mapped_column(Identifier, primary_key=True)
    check_name: Mapped[str] = mapped_column(String(64), index=True)
    element: Mapped[str] = mapped_column(String(64))
    manufacturer: Mapped[str] = mapped_column(HeaderText)
    manufacturer_model_name: Mapped[str] = mapped_column(HeaderText)
    device_serial_number: Mapped[str] = mapped_column(HeaderText)
    reason: Mapped[str] = mapped_column(HeaderText)
    made_by: Mapped[str] = mapped_column(HeaderText)
    made_at: Mapped[datetime]
    withdrawn_at: Mapped[datetime | None]


class StatedProtocolRow(Table):
    """What the headers of a series state of scanner and protocol: what the scanner's habit is made of.

    Keys as in `records.StatedProtocol`; `stated` maps DICOM keywords to canonical text.
    """

    __tablename__ = "stated_protocol"
    __table_args__ = (
        Index(None, "device", "protocol", "series_id"),  # the habit of a scanner, newest series first
        Index(None, "study_id"),  # the other series of a study
    )

    series_id: Mapped[int] = mapped_column(ForeignKey("series.id"), primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("study.id"))
    revision: Mapped[int]
    device: Mapped[str] = mapped_column(HeaderText)  # `records.StatedProtocol.device`
    software_versions: Mapped[str] = mapped_column(HeaderText)
    protocol: Mapped[str] = mapped_column(HeaderText)
    stated: Mapped[dict[str, Any]]
    stated_at: Mapped[datetime]


class CorrectionRow(Table):
    """A corrected copy of a series: what was written, under which UIDs, where to."""

    __tablename__ = "correction"

    id: Mapped[int] = mapped_column(Identifier, primary_key=True)
    series_id: Mapped[int] = mapped_column(ForeignKey("series.id"), index=True)  # the original
    revision: Mapped[int]
    study_instance_uid: Mapped[str] = mapped_column(HeaderText)  # of the copy
    series_instance_uid: Mapped[str] = mapped_column(HeaderText)
    elements: Mapped[dict[str, Any]]  # DICOM keyword: value written
    n_instances: Mapped[int]
    target: Mapped[str] = mapped_column(HeaderText)  # a folder, or a destination's name in config.yaml
    made_by: Mapped[str] = mapped_column(HeaderText)
    made_at: Mapped[datetime]  # as the copies say it; the same whenever they are made again
    software_version: Mapped[str] = mapped_column(String(64))  # as the copies say it
    finished_at: Mapped[datetime | None]  # None: not all instances are written yet


class RoutingRulesRow(Table):
    """The routing rules of one version, as they decided: `version` is what decisions name."""

    __tablename__ = "routing_rules"

    version: Mapped[str] = mapped_column(String(64), primary_key=True)
    rules: Mapped[dict[str, Any]]  # the whole `routing` section
    first_used_at: Mapped[datetime]


class RouteDecisionRow(Table):
    """Where a judged revision goes, and why; `payload` is the whole `RouteDecision`."""

    __tablename__ = "route_decision"
    __table_args__ = (
        Index("ix_route_decision_held", "judgement_id", sqlite_where=text("held"), postgresql_where=text("held")),
    )

    id: Mapped[int] = mapped_column(Identifier, primary_key=True)
    judgement_id: Mapped[int] = mapped_column(ForeignKey("judgement.id"), unique=True)
    domain: Mapped[str | None] = mapped_column(HeaderText, index=True)  # the first that a model takes it for
    reason: Mapped[str] = mapped_column(HeaderText)
    rules_version: Mapped[str] = mapped_column(HeaderText)
    held: Mapped[bool] = mapped_column(server_default=false())  # nothing was sent: it waits for a `route_change`
    payload: Mapped[dict[str, Any]]


class RouteChangeRow(Table):
    """What a person decided about the route of a judged revision; rows are only ever added."""

    __tablename__ = "route_change"

    id: Mapped[int] = mapped_column(Identifier, primary_key=True)
    judgement_id: Mapped[int] = mapped_column(ForeignKey("judgement.id"), index=True)
    action: Mapped[RouteAction] = mapped_column(state_column(RouteAction, "action"))
    destinations: Mapped[list[Any]]  # that it was sent to
    who: Mapped[str] = mapped_column(HeaderText)
    reason: Mapped[str] = mapped_column(HeaderText)
    at: Mapped[datetime]


class SeriesHoldRow(Table):
    """A person holds a series, whatever its revisions are judged to be: nothing of it is sent until it is released."""

    __tablename__ = "series_hold"
    __table_args__ = (
        Index(
            "ix_series_hold_standing",
            "series_id",
            unique=True,
            sqlite_where=text("ended_at IS NULL"),
            postgresql_where=text("ended_at IS NULL"),
        ),
    )

    id: Mapped[int] = mapped_column(Identifier, primary_key=True)
    series_id: Mapped[int] = mapped_column(ForeignKey("series.id"), index=True)
    who: Mapped[str] = mapped_column(HeaderText)
    reason: Mapped[str] = mapped_column(HeaderText)
    held_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]  # released or rerouted by a person; None: it stands
    ended_by: Mapped[str | None] = mapped_column(HeaderText)
    end_reason: Mapped[str | None] = mapped_column(HeaderText)


class DeliveryRow(Table):
    """One revision of a series on its way to one destination."""

    __tablename__ = "delivery"
    __table_args__ = (
        UniqueConstraint("series_id", "revision", "destination"),
        Index(None, "state", "updated_at", "destination"),  # how many per hour
    )

    id: Mapped[int] = mapped_column(Identifier, primary_key=True)
    series_id: Mapped[int] = mapped_column(ForeignKey("series.id"))
    revision: Mapped[int]
    destination: Mapped[str] = mapped_column(HeaderText)
    state: Mapped[DeliveryState] = mapped_column(state_column(DeliveryState, "state"))
    shadow: Mapped[bool] = mapped_column(server_default=false())  # sent for comparison: it counts as not routed
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class InstanceDeliveryRow(Table):
    """What a destination last answered for an instance. One that it accepted is not sent there again."""

    __tablename__ = "instance_delivery"

    instance_id: Mapped[int] = mapped_column(ForeignKey("instance.id"), primary_key=True)
    destination: Mapped[str] = mapped_column(HeaderText, primary_key=True)
    accepted: Mapped[bool]
    status: Mapped[int | None]  # DIMSE status (PS3.4 Table B.2-1); None: no answer came
    comment: Mapped[str] = mapped_column(HeaderText)
    answered_at: Mapped[datetime]
    sent_sop_instance_uid: Mapped[str | None] = mapped_column(HeaderText)  # of a corrected copy; None: the original's


class CommitmentRow(Table):
    """A storage commitment request (PS3.4 Annex J) and how far its report got.

    `due_at` says when it is to be reported next: while an association or a process is at it, when another may.
    """

    __tablename__ = "commitment_request"
    __table_args__ = (
        CheckConstraint("(due_at IS NOT NULL) = (state = 'waiting')", name="due_while_waiting"),
        Index(None, "state", "due_at"),
    )

    id: Mapped[int] = mapped_column(Identifier, primary_key=True)
    transaction_uid: Mapped[str] = mapped_column(HeaderText, index=True)
    calling_ae_title: Mapped[str] = mapped_column(HeaderText)  # of the requestor, to whom the report goes
    source_address: Mapped[str] = mapped_column(HeaderText)
    instances: Mapped[list[Any]]  # pairs of SOP Class and SOP Instance UID, as they were asked for, while it waits
    uid_in_use: Mapped[bool]  # the Transaction UID was that of another request that still waited
    state: Mapped[CommitmentState] = mapped_column(state_column(CommitmentState, "state"))
    attempts: Mapped[int]
    due_at: Mapped[datetime | None]
    n_not_committed: Mapped[int | None]  # as it was reported
    error: Mapped[str | None] = mapped_column(HeaderText)  # of the last failed attempt
    requested_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class CommitmentSeriesRow(Table):
    """A series that a storage commitment request named instances of; stays when the request's own list is forgotten."""

    __tablename__ = "commitment_series"

    commitment_id: Mapped[int] = mapped_column(ForeignKey("commitment_request.id"), primary_key=True)
    series_id: Mapped[int] = mapped_column(ForeignKey("series.id"), primary_key=True, index=True)


class AccountRow(Table):
    """Somebody who may sign in to the console. Never deleted, so that the audit trail stays readable."""

    __tablename__ = "account"

    id: Mapped[int] = mapped_column(Identifier, primary_key=True)
    name: Mapped[str] = mapped_column(String(64), unique=True)
    password_hash: Mapped[str | None] = mapped_column(String(256))  # argon2id; None: signs in through OpenID Connect
    subject: Mapped[str | None] = mapped_column(String(256), unique=True)  # of OpenID Connect: "ISSUER SUB"
    role: Mapped[Role] = mapped_column(state_column(Role, "role"))
    must_change_password: Mapped[bool]
    created_at: Mapped[datetime]
    disabled_at: Mapped[datetime | None]


class WebSessionRow(Table):
    """A browser that is signed in; the cookie's token itself is stored nowhere."""

    __tablename__ = "web_session"

    token_hash: Mapped[str] = mapped_column(String(64), primary_key=True)  # SHA-256
    account_id: Mapped[int] = mapped_column(ForeignKey("account.id"), index=True)
    csrf_token: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime] = mapped_column(index=True)


class ApiTokenRow(Table):
    """A program's key: to the API, where it may do the lesser of `role` and its owner's role, or to storing alone."""

    __tablename__ = "api_token"

    id: Mapped[int] = mapped_column(Identifier, primary_key=True)
    token_hash: Mapped[str] = mapped_column(String(64), unique=True)  # SHA-256
    name: Mapped[str] = mapped_column(String(64))
    account_id: Mapped[int] = mapped_column(ForeignKey("account.id"), index=True)
    role: Mapped[Role] = mapped_column(state_column(Role, "role"))
    scope: Mapped[TokenScope] = mapped_column(
        Enum(TokenScope, native_enum=False, length=16, values_callable=lambda scopes: [one.value for one in scopes]),
        server_default=TokenScope.API,
    )
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class AuditTrailRow(Table):
    """Who did what, when; rows are only ever added. No patient identity, no secret."""

    __tablename__ = "audit_trail"

    id: Mapped[int] = mapped_column(Identifier, primary_key=True)
    at: Mapped[datetime] = mapped_column(index=True)
    who: Mapped[str] = mapped_column(HeaderText)  # account's name, or "token NAME of ACCOUNT"
    action: Mapped[str] = mapped_column(String(64))  # "sign in", "accept finding", "requeue job"
    subject: Mapped[str] = mapped_column(HeaderText)  # what it was done to: a UID, a number, a name
    detail: Mapped[str] = mapped_column(HeaderText)
    address: Mapped[str] = mapped_column(HeaderText)  # from where


class NotificationRow(Table):
    """What a channel was last told of one kind of trouble, so that it is told once, whoever restarts meanwhile."""

    __tablename__ = "notification"

    channel: Mapped[str] = mapped_column(String(16), primary_key=True)  # "email", "webhook"
    kind: Mapped[str] = mapped_column(String(32), primary_key=True)
    told: Mapped[dict[str, Any]]  # what is wrong: how much of it, as it was last told; empty: that it is over
    told_at: Mapped[datetime | None]  # when anything was last told
    begun_at: Mapped[datetime | None]  # when trouble was last told, not the end of it
    claimed_until: Mapped[datetime | None]  # a process is at it; after a crash another one is


class AnnouncementRow(Table):
    """What happened once and is to be told; how far a channel has heard stands in `notification`."""

    __tablename__ = "announcement"

    id: Mapped[int] = mapped_column(Identifier, primary_key=True)
    kind: Mapped[str] = mapped_column(String(32))
    summary: Mapped[str]
    remedy: Mapped[str]
    made_at: Mapped[datetime] = mapped_column(index=True)


class DestinationHealthRow(Table):
    """How a destination has answered as a whole, so that all workers leave one alone that fails."""

    __tablename__ = "destination_health"

    destination: Mapped[str] = mapped_column(String(128), primary_key=True)  # name in the configuration
    failures: Mapped[int]  # in a row
    paused_until: Mapped[datetime | None]  # nobody tries before; None: it is not left alone
    error: Mapped[str | None] = mapped_column(HeaderText)  # of the last failure
    failed_at: Mapped[datetime | None]
