"""How often the pixels contradict headers, per scanner and parameter, held against the alpha that was promised.

Called by the command `alarms` and by reports. A right header is outside its conformal set at a rate of about alpha; the
alarms that people accept are faults that were found, so that what counts here is the rest. A rate clearly above alpha
says that this scanner's headers are often wrong or, more likely, that the model does not fit its images. As in other
reports a series belongs to the period in which its first instance came, and what is counted is what is known of it now.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from scipy.special import betaincinv
from sqlalchemy import ColumnElement, Select, and_, case, func, or_, select
from sqlalchemy.orm import Session

from iap_node.config import AuditConfig
from iap_node.database.report_figures import Scanner
from iap_node.database.tables import FindingRow, HeaderComparisonRow, JudgementRow, PredictionRow, SeriesRow
from iap_node.dicom.parameters import CONTRAST_ABSENT, PARAMETERS
from iap_node.records import FindingState, Verdict

WHOLE_HEADER = "SeriesInstanceUID"  # the keyword of the row about headers as a whole
CONFIDENCE = 0.99
"""Of intervals. A list of rows has many: at 95 % one in forty would be called out for nothing."""

JOINT_ALPHA = AuditConfig().joint_alpha
CHECKS = ("pixels-contradict", "pixels-question", "pixels-joint")
"""Of the pixels, that say something is wrong; what is missing is no alarm."""

_KEYWORDS = {parameter.element: parameter.keyword for parameter in PARAMETERS} | {WHOLE_HEADER: WHOLE_HEADER}
_ORDER = [*(parameter.keyword for parameter in PARAMETERS), WHOLE_HEADER]


@dataclass(frozen=True, slots=True)
class AlarmRate:
    """One parameter of one scanner, or its headers as a whole: how often the pixels doubt what is stated.

    Attributes
    ----------
    keyword
        Of the parameter; `SeriesInstanceUID` for the header as a whole.
    alpha
        The rate at which right headers are expected to be doubted; the mean, where it was changed in the period.
    n_judged
        Series that state a value which the model could judge.
    n_alarms
        Those whose value is outside its conformal set. What is inferred by association counts too, though it is only
        asked about.
    n_dismissed, n_accepted
        Alarms that people, or a rule of theirs, called no fault; that they called a fault, corrected ones included.
    """

    scanner: Scanner
    keyword: str
    alpha: float
    n_judged: int
    n_alarms: int
    n_dismissed: int
    n_accepted: int

    @property
    def n_undecided(self) -> int:
        """Alarms about which nobody has said anything."""
        return max(0, self.n_alarms - self.n_dismissed - self.n_accepted)

    @property
    def rate(self) -> float:
        """Alarms that nobody called a fault, as a share of the series that nobody called faulty; 0 without any."""
        alarms, series = self._unfounded()
        return alarms / series if series else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """Clopper-Pearson interval of the rate (Biometrika 1934, doi 10.1093/biomet/26.4.404), at `CONFIDENCE`."""
        alarms, series = self._unfounded()
        if not series:
            return 0.0, 1.0
        tail = (1 - CONFIDENCE) / 2
        low = float(betaincinv(alarms, series - alarms + 1, tail)) if alarms else 0.0
        high = float(betaincinv(alarms + 1, series - alarms, 1 - tail)) if alarms < series else 1.0
        return low, high

    @property
    def above_alpha(self) -> bool:
        """Whether the rate is clearly above alpha: the whole interval is."""
        return self.interval[0] > self.alpha

    def _unfounded(self) -> tuple[int, int]:
        series = max(0, self.n_judged - self.n_accepted)
        return min(series, max(0, self.n_alarms - self.n_accepted)), series


@dataclass(frozen=True, slots=True)
class _Counts:
    alpha: float
    n_judged: int
    n_alarms: int


def alarm_rates(
    session: Session, since: datetime, until: datetime, *, joint_alpha: float = JOINT_ALPHA
) -> list[AlarmRate]:
    """The rates of every scanner and parameter judged in [since, until), scanner by scanner.

    Parameters
    ----------
    joint_alpha
        At which a header as a whole is doubted: `audit.joint_alpha` of the configuration.
    """
    alphas, counted = _whole_headers(session, since, until, joint_alpha)
    counted |= _single_values(session, since, until, alphas)
    decided = _decisions(session, since, until)
    rates = [
        AlarmRate(
            scanner=scanner,
            keyword=keyword,
            alpha=counts.alpha,
            n_judged=counts.n_judged,
            n_alarms=counts.n_alarms,
            n_dismissed=decided[scanner, keyword, FindingState.DISMISSED],
            n_accepted=decided[scanner, keyword, FindingState.ACCEPTED]
            + decided[scanner, keyword, FindingState.CORRECTED],
        )
        for (scanner, keyword), counts in counted.items()
    ]
    return sorted(rates, key=lambda one: (one.scanner, _ORDER.index(one.keyword)))


def models_heard(session: Session, since: datetime, until: datetime) -> list[tuple[str, str]]:
    """Model id and what it was trained on, of every model that judged series of [since, until)."""
    trained_on = PredictionRow.payload["training_data"].as_string()
    query = _judged(select(PredictionRow.model_id, trained_on), since, until).distinct()
    return sorted((model_id, text or "") for model_id, text in session.execute(query))


_SCANNER = (SeriesRow.manufacturer, SeriesRow.manufacturer_model_name, SeriesRow.device_serial_number)


def _judged(query: Select[*tuple[Any, ...]], since: datetime, until: datetime) -> Select[*tuple[Any, ...]]:
    """A query about the newest judgements with a prediction, of the series of a period."""
    return (
        query.select_from(SeriesRow)
        .join(
            JudgementRow,
            and_(JudgementRow.series_id == SeriesRow.id, JudgementRow.revision == SeriesRow.judged_revision),
        )
        .join(PredictionRow, PredictionRow.id == JudgementRow.prediction_id)
        .where(SeriesRow.first_received_at >= since, SeriesRow.first_received_at < until, ~PredictionRow.novel)
    )


def _single_values(
    session: Session, since: datetime, until: datetime, alphas: Mapping[Scanner, float]
) -> dict[tuple[Scanner, str], _Counts]:
    verdict, probability = HeaderComparisonRow.verdict, HeaderComparisonRow.header_probability
    # A value inferred by association is never contradicted: it is not judged, but has its probability. That there
    # was no contrast agent is never asked about.
    outside = or_(verdict == Verdict.CONTRADICTS, and_(verdict == Verdict.NOT_JUDGED, probability.is_not(None)))
    query = (
        _judged(select(*_SCANNER, HeaderComparisonRow.keyword, func.count(), _count_of(outside)), since, until)
        .join(HeaderComparisonRow, HeaderComparisonRow.judgement_id == JudgementRow.id)
        .where(or_(outside, verdict == Verdict.AGREES), HeaderComparisonRow.header_value != CONTRAST_ABSENT)
        .group_by(*_SCANNER, HeaderComparisonRow.keyword)
    )
    counted = {}
    for manufacturer, model, serial, keyword, n_judged, n_alarms in session.execute(query):
        scanner = Scanner(manufacturer, model, serial)
        if scanner in alphas:  # PostgreSQL: its first series may have been judged since those were read
            counted[scanner, keyword] = _Counts(alphas[scanner], int(n_judged), int(n_alarms))
    return counted


def _whole_headers(
    session: Session, since: datetime, until: datetime, joint_alpha: float
) -> tuple[dict[Scanner, float], dict[tuple[Scanner, str], _Counts]]:
    """Mean alpha of each scanner's predictions, and the counts of headers as a whole: payloads are read once."""
    alpha = PredictionRow.payload[("parameters", 0, "alpha")].as_float()
    p_value = PredictionRow.payload[("header_fit", "p_value")].as_float()
    query = _judged(
        select(*_SCANNER, func.avg(alpha), func.count(p_value), _count_of(p_value <= joint_alpha)), since, until
    ).group_by(*_SCANNER)
    alphas, counted = {}, {}
    for manufacturer, model, serial, mean_alpha, n_judged, n_alarms in session.execute(query):
        scanner = Scanner(manufacturer, model, serial)
        alphas[scanner] = float(mean_alpha or 0.0)
        if n_judged:
            counted[scanner, WHOLE_HEADER] = _Counts(joint_alpha, int(n_judged), int(n_alarms))
    return alphas, counted


def _decisions(session: Session, since: datetime, until: datetime) -> dict[tuple[Scanner, str, FindingState], int]:
    """How many findings of the pixels, still seen in the newest judgement, stand in which state."""
    query = (
        _judged(select(*_SCANNER, FindingRow.element, FindingRow.state, func.count()), since, until)
        .join(FindingRow, FindingRow.series_id == SeriesRow.id)
        .where(FindingRow.check_name.in_(CHECKS), FindingRow.last_revision == SeriesRow.judged_revision)
        .group_by(*_SCANNER, FindingRow.element, FindingRow.state)
    )
    counted: defaultdict[tuple[Scanner, str, FindingState], int] = defaultdict(int)
    for manufacturer, model, serial, element, state, count in session.execute(query):
        counted[Scanner(manufacturer, model, serial), _KEYWORDS.get(element, element), state] += count
    return counted


def _count_of(condition: ColumnElement[bool]) -> ColumnElement[int]:
    return func.coalesce(func.sum(case((condition, 1), else_=0)), 0)
