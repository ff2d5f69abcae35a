"""An archive of simulated series, filed, judged and decided through the functions that the node uses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from sqlalchemy.orm import Session

from iap_node.audit.verdicts import compare
from iap_node.config import AuditConfig
from iap_node.database import findings, results
from iap_node.database.archive import complete_series
from iap_node.database.jobs import claim
from iap_node.database.reception import Arrival, record_instances
from iap_node.records import (
    Finding,
    FindingKind,
    FindingState,
    HeaderValue,
    InstanceHeader,
    JobKind,
    ParameterKind,
    ParameterPrediction,
    ReceivedInstance,
    RouteDecision,
    SeriesHeader,
    SeriesPrediction,
    Severity,
    Testimony,
    Witness,
)

MODEL, TRAINING_DATA = "simulated-1", "none: simulated answers for a test"
SCANNERS = (
    ("SIEMENS", "Skyra", "S-1"),
    ("GE MEDICAL SYSTEMS", "SIGNA HDx", "G-1"),
    ("GE MEDICAL SYSTEMS", "SIGNA HDx", "G-2"),
)
NOVEL, UNSEEN = "novel", "unseen"


@dataclass(frozen=True)
class Series:
    """One simulated series: what its header says, what the pixels say, what was found."""

    number: int
    at: datetime
    scanner: tuple[str, str, str] = SCANNERS[0]
    study: int = 1
    description: str = "t1 fs"
    protocol: str = "breast t1"
    software: str = "VE11"
    echo_time: str = "2.1"
    predicted_echo_time: float = 2.1
    pixels: str = "judged"  # or NOVEL, UNSEEN
    findings: Sequence[Finding] = field(default=())

    @property
    def uid(self) -> str:
        return f"1.2.826.8.{self.number}"


def finding(
    check: str = "field-strength-unit",
    element: str = "MagneticFieldStrength",
    severity: Severity = Severity.ERROR,
    kind: FindingKind = FindingKind.UNIT,
    raised_by: Witness = Witness.STANDARD,
    raw: str = "15000",
    suggested: str | None = "1.5",
    evidence: str = "Magnetic Field Strength (0018,0087) is 15000, which is 1.5 T in gauss.",
) -> Finding:
    return Finding(
        element, check, kind, severity, evidence, raw, suggested, raised_by,
        (Testimony(Witness.PIXELS, True, "the pixels rule out 15000", 0.002, "1.5"),
         Testimony(Witness.HABIT, False, "this scanner wrote 15000 in 12 of 12 series", 1.0)),
        "The header is probably wrong.",
    )  # fmt: skip


def deviation(protocol: str = "breast t1") -> Finding:
    return finding(
        "habit-deviates", "EchoTime", Severity.NOTE, FindingKind.DEVIATION, Witness.HABIT, "9.9", "2.1",
        f"41 of 43 series of {protocol} on this scanner have Echo Time 2.1 ms.",
    )  # fmt: skip


def file(session: Session, series: Series) -> int:
    """File, complete and judge one series; its row's number."""
    manufacturer, model, serial = series.scanner
    header = InstanceHeader(
        sop_class_uid="1.2.840.10008.5.1.4.1.1.4",
        sop_instance_uid=f"1.2.826.9.{series.number}",
        study_instance_uid=f"1.2.826.7.{series.study}",
        series_instance_uid=series.uid,
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        modality="MR",
        series_number=series.number,
        series_description=series.description,
        protocol_name=series.protocol,
        manufacturer=manufacturer,
        manufacturer_model_name=model,
        device_serial_number=serial,
        software_versions=series.software,
    )
    path = f"series/{series.number}.dcm"
    received = ReceivedInstance(header, path, f"{series.number:064}", 1000, "SCANNER", "127.0.0.1", series.at)
    record_instances(session, [Arrival(received, "c0ffee")])
    judged_at = series.at + timedelta(minutes=5)
    assert complete_series(session, [series.uid], judged_at) == [series.uid]
    job = claim(session, JobKind.INFER, "test", 60.0, judged_at)
    assert job is not None
    stated = SeriesHeader(
        (
            HeaderValue("Manufacturer", manufacturer, manufacturer),
            HeaderValue(
                "EchoTime", series.echo_time, _number(series.echo_time), "" if _number(series.echo_time) else "no"
            ),
            HeaderValue("SliceThickness", "", None),
        )
    )
    answer = None if series.pixels == UNSEEN else prediction(series)
    reason = "MR Spectroscopy Storage: spectra, not an image." if answer is None else None
    results.save_judgement(
        session,
        job,
        header=stated,
        prediction=answer,
        comparisons=compare(stated, answer, AuditConfig(), reason or ""),
        decision=RouteDecision(None, (), (), "no domain is configured", (), "rules-1"),
        problems=(),
        not_analysed_reason=reason,
        findings=series.findings,
        now=judged_at,
    )
    return job.series_id


def prediction(series: Series) -> SeriesPrediction:
    """Siemens or GE as the scanner is, and the echo time that the series asks for."""
    makers = ("SIEMENS", "GE MEDICAL SYSTEMS", "MPTronic software")
    order = sorted(makers, key=lambda maker: maker != series.scanner[0])
    value = series.predicted_echo_time
    parameters = (
        ParameterPrediction(
            "Manufacturer",
            ParameterKind.CATEGORICAL,
            tuple(zip(order, (0.97, 0.02, 0.01), strict=True)),
            (order[0],),
            alpha=0.01,
        ),
        ParameterPrediction(
            "EchoTime",
            ParameterKind.CONTINUOUS,
            value=value,
            interval=(value - 0.2, value + 0.2),
            intervals=tuple(
                (alpha, value - half, value + half) for alpha, half in ((0.5, 0.03), (0.1, 0.1), (0.01, 0.2))
            ),
            alpha=0.01,
        ),
    )
    novel = series.pixels == NOVEL
    return SeriesPrediction(MODEL, TRAINING_DATA, novel, 9.0 if novel else 1.0, 4.5, 8, () if novel else parameters)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def fill(session: Session, until: datetime, weeks: int = 16, per_week: int = 6) -> list[Series]:
    """Some months of three scanners, the last ending at `until`; what was found is worse on one of them.

    In the last four weeks one scanner's stated echo times are off, and it has other software.
    """
    filed = []
    number = 1
    for week in range(weeks):
        late = weeks - week <= 4
        for one in range(per_week):
            scanner = SCANNERS[one % len(SCANNERS)]
            odd = scanner == SCANNERS[1]
            off = 0.5 if late and odd else 0.0
            found = [finding()] if odd and (one + week) % 4 else []
            found += [deviation()] if (number % 7) == 0 else []
            series = Series(
                number,
                until - timedelta(days=7 * (weeks - week) - one % 5 - 1),
                scanner,
                study=number // 4 + 1,
                protocol=("breast t1", "breast t2", "brain flair")[number % 3],
                software="DV26" if late and odd else "DV25" if odd else "VE11",
                echo_time=f"{2.1 + off:.4g}",
                predicted_echo_time=2.1 + 0.01 * ((number * 7) % 11 - 5),
                pixels=NOVEL if number % 13 == 0 else UNSEEN if number % 17 == 0 else "judged",
                findings=found,
            )
            series_id = file(session, series)
            if found and number % 5 == 3:
                _decide(session, series_id, series.at + timedelta(days=3), number)
            filed.append(series)
            number += 1
    return filed


def _decide(session: Session, series_id: int, at: datetime, number: int) -> None:
    for one in findings.list_findings(session, findings.FindingFilter(series_id=series_id)):
        if number % 2:
            findings.decide(session, one.id, FindingState.ACCEPTED, "physicist", now=at)
        else:
            findings.decide(session, one.id, FindingState.DISMISSED, "physicist", "looked at the phantom", now=at)


END_OF_FEBRUARY = datetime(2026, 3, 1, tzinfo=UTC)
