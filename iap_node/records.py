"""What travels between rooms: frozen dataclasses and enums, standard library only.

Every room may import this one. Facts travel here, never in file names, log calls or globals. Times are aware
datetimes in UTC. Parameters are named by their DICOM keyword (`iap_node.dicom.parameters`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

# ---------------------------------------------------------------- receiving


@dataclass(frozen=True, slots=True)
class InstanceHeader:
    """The elements of one instance that the archive keeps.

    `patient_id` and `issuer_of_patient_id` are used for the keyed hash only and are never stored or logged.
    Numbers are None where the element is absent, empty or not a number.
    """

    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    transfer_syntax_uid: str
    patient_id: str = field(default="", repr=False)
    issuer_of_patient_id: str = field(default="", repr=False)
    study_date: str = ""
    modality: str = ""
    series_number: int | None = None
    series_description: str = ""
    protocol_name: str = ""
    body_part_examined: str = ""
    manufacturer: str = ""
    manufacturer_model_name: str = ""
    device_serial_number: str = ""
    software_versions: str = ""
    image_type: str = ""
    instance_number: int | None = None
    rows: int | None = None
    columns: int | None = None
    number_of_frames: int | None = None


@dataclass(frozen=True, slots=True)
class ReceivedInstance:
    """An instance whose bytes are durable in the spool and whose archive row comes next."""

    header: InstanceHeader
    spool_path: str  # relative to the spool's root, POSIX separators
    checksum: str  # of transfer syntax UID + data set bytes as received (file meta excluded)
    size_bytes: int  # of the Part 10 file
    calling_ae_title: str
    source_address: str
    received_at: datetime
    not_analysed_reason: str | None = None  # None: its pixels go to the model


class StoreOutcome(StrEnum):
    """What the archive did with a received instance."""

    STORED = "stored"
    DUPLICATE = "duplicate"  # same SOP Instance UID, same bytes: nothing changed
    CONFLICT = "conflict"  # same SOP Instance UID, other bytes: kept aside


@dataclass(frozen=True, slots=True)
class QuarantinedInstance:
    """Bytes that could not be filed, with the reason; kept in the spool's quarantine."""

    spool_path: str
    reason: str
    sop_instance_uid: str
    calling_ae_title: str
    source_address: str
    size_bytes: int
    received_at: datetime


class SeriesState(StrEnum):
    """Where a series is on its way."""

    RECEIVING = "receiving"
    COMPLETE = "complete"  # its INFER job is in the queue
    JUDGED = "judged"  # pixels were read; a prediction or a novelty stands
    NOT_ANALYSED = "not analysed"  # kept, with its reason; no pixels for the model
    FAILED = "failed"  # the INFER job is a dead letter


# ---------------------------------------------------------------- jobs


class JobKind(StrEnum):
    INFER = "infer"
    DELIVER = "deliver"


class JobState(StrEnum):
    READY = "ready"
    LEASED = "leased"
    DONE = "done"
    DEAD = "dead"  # a dead letter: out of attempts or a permanent error
    SUPERSEDED = "superseded"  # a later revision of the series took its place


@dataclass(frozen=True, slots=True)
class Job:
    """A leased job as its worker sees it."""

    id: int
    kind: JobKind
    series_id: int  # archive row
    series_instance_uid: str
    revision: int
    destination: str  # name in config.yaml; "" for INFER
    attempts: int  # this one included
    lease_token: str  # fences results: a worker whose lease was lost cannot write


# ---------------------------------------------------------------- predictions


class ParameterKind(StrEnum):
    CATEGORICAL = "categorical"
    CONTINUOUS = "continuous"


@dataclass(frozen=True, slots=True)
class ParameterPrediction:
    """The model's answer for one acquisition parameter of one series.

    Categorical: `probabilities` over the package's vocabulary, descending; `prediction_set` the classes of the
    conformal set at `alpha`. Continuous: `value` with `interval` (low, high) at 1 - `alpha`, in the parameter's unit;
    `intervals` holds (alpha, low, high) for falling alpha, so that a conformal p-value can be read off for any value.
    """

    keyword: str
    kind: ParameterKind
    probabilities: tuple[tuple[str, float], ...] = ()
    prediction_set: tuple[str, ...] = ()
    value: float | None = None
    interval: tuple[float, float] | None = None
    intervals: tuple[tuple[float, float, float], ...] = ()
    alpha: float = 0.05
    by_association: bool = False  # learned from protocol habits, not from physics: may question, never contradict


@dataclass(frozen=True, slots=True)
class StatedFit:
    """How well one stated value fits the pixels."""

    keyword: str
    p_value: float  # conformal: the share of right headers in which this value fits no better


@dataclass(frozen=True, slots=True)
class HeaderFit:
    """How well a header as a whole fits the pixels, over the values that it states and the model can judge.

    `terms` stand by falling weight; `without` holds the p-value of the header without its first 1, 2, ... terms. What
    is inferred by association is not among them.
    """

    p_value: float  # conformal: the share of right headers, stating the same parameters, that fit no better
    terms: tuple[StatedFit, ...]
    without: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class SeriesPrediction:
    """What the pixels of one series say, or that the model abstains."""

    model_id: str
    training_data: str  # "trained on simulated images" for the shipped reference model; shown with every answer
    novel: bool  # True: unlike the training data; `parameters` is empty
    novelty_score: float
    novelty_threshold: float
    n_slices: int
    parameters: tuple[ParameterPrediction, ...] = ()
    header_fit: HeaderFit | None = None  # None: no header was shown, it states too little, or the model cannot say
    calibrated: bool = True  # False: no sets, no intervals, novelty unknown; `parameters` are shown and never believed

    @property
    def speaks(self) -> bool:
        """Whether verdicts and routes may rest on it: the model is calibrated, and the series is not novel to it."""
        return self.calibrated and not self.novel


# ---------------------------------------------------------------- header comparison


@dataclass(frozen=True, slots=True)
class HeaderValue:
    """One parameter as the header states it."""

    keyword: str
    raw: str  # as written, values joined by a backslash; "" when absent or empty
    canonical: str | float | None  # None: absent, empty or unusable
    problem: str = ""  # why `canonical` is None although `raw` is not empty, or "varies in the series"


@dataclass(frozen=True, slots=True)
class SeriesHeader:
    """The acquisition parameters of a series as its headers state them, one value per parameter."""

    values: tuple[HeaderValue, ...]

    def value(self, keyword: str) -> HeaderValue:
        """The value of one parameter; an empty one where the header was not read for it."""
        for value in self.values:
            if value.keyword == keyword:
                return value
        return HeaderValue(keyword=keyword, raw="", canonical=None)


class Verdict(StrEnum):
    AGREES = "agrees"
    CONTRADICTS = "contradicts"
    MISSING = "missing"
    NOT_JUDGED = "not judged"


@dataclass(frozen=True, slots=True)
class HeaderComparison:
    """One parameter: header against pixels."""

    keyword: str
    header_value: str  # canonical text, or the raw text when unusable; "" when missing
    predicted_value: str  # most probable class or value with unit; "" when the model abstained
    header_probability: float | None  # of the header's own value: class probability, or conformal p-value of a number
    verdict: Verdict
    suggested_value: str = ""  # for missing and contradicting headers
    reason: str = ""  # always set for NOT_JUDGED


# ---------------------------------------------------------------- routing


class Truth(StrEnum):
    """Three-valued: a condition on a value nobody knows is unknown, never false."""

    TRUE = "true"
    FALSE = "false"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class SeriesFacts:
    """What the archive knows of a series and its study, for the routing rules; "" and None where nothing is known."""

    calling_ae_title: str = ""  # of the first instance
    modality: str = ""
    series_number: int | None = None
    series_description: str = ""
    protocol_name: str = ""
    body_part_examined: str = ""
    manufacturer: str = ""
    manufacturer_model_name: str = ""
    device_serial_number: str = ""
    software_versions: str = ""
    study_date: str = ""
    number_of_instances: int | None = None


@dataclass(frozen=True, slots=True)
class FoundFact:
    """A finding as the routing rules see it; texts of `Severity`, `FindingState` and `Witness`."""

    check: str
    element: str  # DICOM keyword
    severity: str
    state: str
    raised_by: str


@dataclass(frozen=True, slots=True)
class RoutingEvidence:
    """Everything that a route is decided by. None: nobody looked, and conditions over it are unknown."""

    prediction: SeriesPrediction | None = None
    not_analysed_reason: str = ""  # why there is no prediction
    header: SeriesHeader | None = None
    stated: tuple[tuple[str, str], ...] | None = None  # `StatedProtocol.values`: elements beyond the parameters
    facts: SeriesFacts | None = None
    findings: tuple[FoundFact, ...] | None = None
    unheard: tuple[str, ...] = ()  # texts of `Witness`: who could not look at everything, whose silence says nothing


class ConditionSource(StrEnum):
    """What a condition looks at."""

    PIXELS = "pixels"
    HEADER = "header"
    SERIES = "series"
    FINDINGS = "findings"
    DOMAIN = "domain"
    ALL = "all"  # the conditions below it
    ANY = "any"
    NOT = "not"


@dataclass(frozen=True, slots=True)
class ConditionTrace:
    """One condition and how it came out, or several that are taken together."""

    condition: str  # as a person reads it: "Manufacturer = SIEMENS"
    truth: Truth
    probability: float | None  # that it holds, by the model; None: nobody knows, or it is stated and not predicted
    observed: str  # what the model says of the parameter, what the header states, what the audit found
    source: ConditionSource = ConditionSource.PIXELS
    at_least: bool = False  # `probability` is a lower bound: the model was never shown all the values asked for
    parts: tuple[ConditionTrace, ...] = ()


@dataclass(frozen=True, slots=True)
class DomainTrace:
    """One domain: its conditions, and the joint probability against the least one asked for."""

    domain: str
    truth: Truth
    probability: float | None
    least_probability: float
    conditions: tuple[ConditionTrace, ...]
    at_least: bool = False  # `probability` is a lower bound


class RouteKind(StrEnum):
    """What sends a series somewhere."""

    RULE = "rule"
    MODEL = "downstream model"


class RouteOutcome(StrEnum):
    """What became of a rule or a downstream model in a decision."""

    APPLIED = "applied"
    NOT_APPLIED = "does not apply"
    UNKNOWN = "unknown"
    NOT_REACHED = "not reached"  # a rule before it stops, or nobody knows whether it does


@dataclass(frozen=True, slots=True)
class RouteTrace:
    """One rule, or one downstream model with its domain, in the order of priority."""

    name: str
    kind: RouteKind
    priority: int
    truth: Truth
    outcome: RouteOutcome
    probability: float | None
    least_probability: float
    condition: ConditionTrace
    destinations: tuple[str, ...] = ()
    shadow: bool = False
    consequence: str = ""  # for people, beyond sending: that it holds, stops, or what its being unknown led to


@dataclass(frozen=True, slots=True)
class RouteDecision:
    """Where a series goes, and why."""

    domain: str | None  # the first that a downstream model takes it for; None: none does
    downstream_models: tuple[str, ...]
    destinations: tuple[str, ...]  # of a held series: where it goes once released
    reason: str  # one sentence for people
    trace: tuple[DomainTrace, ...]
    rules_version: str  # hash of the rules that decided
    routes: tuple[RouteTrace, ...] = ()  # every rule and model
    by: tuple[str, ...] = ()  # rules and models that send it to `destinations`; empty: the default route
    shadow_models: tuple[str, ...] = ()
    shadow_destinations: tuple[str, ...] = ()  # sent too, and marked; none of `destinations`
    held: str = ""  # why nothing is sent until a person releases it; "": it is not held
    unheard: tuple[str, ...] = ()  # witnesses that could not look at everything, as `RoutingEvidence` had them


# ---------------------------------------------------------------- delivery


@dataclass(frozen=True, slots=True)
class InstanceDelivery:
    """What a destination answered for one instance."""

    instance_id: int
    accepted: bool  # Success, or a warning of PS3.4 Table B.2-1 (Bxxx: stored, with coercion)
    status: int | None  # DIMSE status; None when no answer came
    comment: str = ""
    permanent: bool = False  # trying again cannot help (refused presentation context, SOP class not supported)


# ---------------------------------------------------------------- header findings


class Witness(StrEnum):
    """Who speaks for or against what a header says."""

    STANDARD = "standard"  # the standard and physics: what must hold of an element, and between elements
    PIXELS = "pixels"  # the model, calibrated
    HABIT = "habit"  # what this scanner usually writes for this protocol


class FindingKind(StrEnum):
    """What is wrong with a header."""

    MISSING = "missing"  # absent or empty where the standard asks for a value
    REPRESENTATION = "representation"  # not written as its value representation or multiplicity asks
    VALUE = "value"  # no such term, or outside what can be
    UNIT = "unit"  # right in another unit than the standard's
    CONTRADICTION = "contradiction"  # two elements cannot both be right, or the pixels rule the value out
    INCONSTANT = "inconstant"  # differs within the series, or within the study where it cannot
    PIXELS = "pixels"  # the pixel data there is not what the header describes
    DEVIATION = "deviation"  # unlike what this scanner usually writes
    QUESTION = "question"  # worth a look; the witness knows it by association only


class Severity(StrEnum):
    """How much a finding matters to whoever uses the images."""

    ERROR = "error"  # images or geometry will be read wrongly
    WARNING = "warning"  # a parameter is wrong or cannot be relied on
    NOTE = "note"  # against the standard or unlikely, mostly harmless


@dataclass(frozen=True, slots=True)
class Testimony:
    """What one witness says of the value that a finding is about."""

    witness: Witness
    against: bool  # True: the header's value is wrong; False: it may stand
    statement: str  # one sentence for people, with the numbers
    probability: float | None = None  # of the header's own value, by this witness; None: it gives no number
    value: str = ""  # what this witness takes for right, as it would be written; "": it does not know


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding per (series, element, check): what a witness has against a header, with its evidence.

    `evidence` is printable; `raw` is as written, cut off, and must be escaped wherever it is shown. What is found
    against the header as a whole has the element SeriesInstanceUID; its `raw` by the pixels is a digest of the values.
    """

    element: str  # DICOM keyword
    check: str
    kind: FindingKind
    severity: Severity
    evidence: str  # one or two sentences for people, with the numbers
    raw: str  # the element as written, values joined by a backslash; "" when absent or empty
    suggested_value: str | None  # as it would be written; None where nothing says what is right
    raised_by: Witness = Witness.STANDARD
    testimonies: tuple[Testimony, ...] = ()  # of all witnesses that know something of this element, for and against
    conclusion: str = ""  # what the witnesses make of it together: who is probably wrong, in one sentence


class FindingState(StrEnum):
    """How far people, or a later revision, got with a finding."""

    OPEN = "open"
    ACCEPTED = "accepted"  # the header is wrong, and the right value is known where `accepted_value` says so
    DISMISSED = "dismissed"  # no fault, for a reason; or by a rule
    CORRECTED = "corrected"  # a copy with the accepted value was written
    GONE = "gone"  # the newest revision does not show it any more


# ---------------------------------------------------------------- protocols


@dataclass(frozen=True, slots=True)
class StatedProtocol:
    """What a series' headers state of the scanner and of the protocol, in canonical text: the matter of habits.

    The keys are case-folded; "" where the header says nothing. `values` by DICOM keyword, one text per element that is
    constant within the series, elements without a usable value left out.
    """

    manufacturer: str
    model: str
    serial_number: str
    software_versions: str
    protocol: str  # protocol name, sequence and kind of image: which series are meant to be alike; "": nobody can tell
    values: tuple[tuple[str, str], ...]

    @property
    def device(self) -> str:
        """Which scanner it is: its maker and serial number; the model where no serial number tells."""
        return "\\".join((self.manufacturer, "" if self.serial_number else self.model, self.serial_number))


@dataclass(frozen=True, slots=True)
class PastSeries:
    """A series that a scanner's habit is made of: one of the archive, or another one of the folder."""

    series: str  # what tells it from others
    study: str  # what tells its study from others
    protocol: StatedProtocol
    at: datetime | None = None  # when it came or was acquired; None: nobody can tell


# ---------------------------------------------------------------- people


class Role(StrEnum):
    """What a person or a program may do; each may do what those before it may."""

    VIEWER = "viewer"  # looks
    PHYSICIST = "physicist"  # decides on findings, corrects copies
    OPERATOR = "operator"  # moves work: requeue, reroute, release, re-judge, upload, rules, destinations
    ADMIN = "admin"  # people, tokens, models, retention


class TokenScope(StrEnum):
    """What a program's token opens; nothing beyond it."""

    API = "api"  # the API, as far as the token's role goes
    STORE = "store"  # storing instances by STOW-RS, and nothing else


@dataclass(frozen=True, slots=True)
class Account:
    """Somebody who signs in: a person with a password or through OpenID Connect, or the owner of a token."""

    id: int
    name: str
    role: Role
    must_change_password: bool = False

    def may(self, role: Role) -> bool:
        """Whether this account may do what `role` may."""
        order = list(Role)
        return order.index(self.role) >= order.index(role)
