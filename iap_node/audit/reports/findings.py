"""How a finding stands in every report: its cells in a table, its object in JSON, and why its check may be believed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from iap_node.audit.checks import CHECKS
from iap_node.audit.reports.rendering import plain, tag_text
from iap_node.records import Finding, Severity, Testimony, Witness

if TYPE_CHECKING:
    from iap_node.database.findings import ArchivedFinding  # a folder is audited without a database

COLUMNS = (
    "severity", "kind", "check", "element", "tag", "raw", "suggested_value", "evidence", "source", "raised_by",
    "testimonies", "conclusion",
)  # fmt: skip
RANK = {severity: rank for rank, severity in enumerate(Severity)}

_CHECKS = {check.name: check for check in CHECKS}


class Explanation(NamedTuple):
    """A check's rule, and where it comes from."""

    rule: str
    source: str


_CONFORMAL = "Vovk, Gammerman, Shafer: Algorithmic Learning in a Random World, 2005, chapter 2"
_WITNESSES = {
    "pixels-contradict": Explanation("the value lies outside what the pixels allow at level alpha", _CONFORMAL),
    "pixels-missing": Explanation("the header says nothing where the pixels do", _CONFORMAL),
    "pixels-question": Explanation("unlike the pixels, by association with protocols, not by physics", _CONFORMAL),
    "pixels-joint": Explanation("the header as a whole does not belong to these pixels", _CONFORMAL),
    "habit-deviates": Explanation(
        "unlike what this scanner usually writes for the protocol", "the scanner's other series"
    ),
    "habit-software-changed": Explanation(
        "the scanner's software is another than before", "the scanner's other series"
    ),
    "habit-study": Explanation("differs from the other series of the study where it should not", "the study"),
}


def explanation(check: str) -> Explanation:
    """Why a check may be believed; empty for one that this version does not have any more."""
    known = _CHECKS.get(check)
    return Explanation(known.rule, known.source) if known else _WITNESSES.get(check, Explanation("", ""))


def cells(finding: Finding | ArchivedFinding) -> tuple[object, ...]:
    """One line of a table; what `COLUMNS` names."""
    return (
        finding.severity, finding.kind, finding.check, finding.element, tag_text(finding.element), finding.raw,
        finding.suggested_value, finding.evidence, explanation(finding.check).source, finding.raised_by,
        "; ".join(map(spoken, finding.testimonies)), finding.conclusion,
    )  # fmt: skip


def as_object(finding: Finding | ArchivedFinding) -> dict[str, Any]:
    """The finding for programs."""
    about = {"tag": tag_text(finding.element), "source": explanation(finding.check).source}
    return {**plain(finding), **about}


def spoken(testimony: Testimony) -> str:
    """What a witness says, in a sentence."""
    side = "against" if testimony.against else "for"
    return f"{testimony.witness} {side}: {testimony.statement}"


def others(finding: Finding | ArchivedFinding) -> tuple[Testimony, ...]:
    """What a page adds to the evidence: not again what the witness that raised the finding says itself."""
    said = finding.testimonies
    return said[1:] if said and said[0].witness is finding.raised_by and said[0].against else said


def conclusion(finding: Finding | ArchivedFinding) -> str:
    """What follows from all that the witnesses say; empty where the standard alone spoke, and its evidence says all."""
    alone = finding.raised_by is Witness.STANDARD and all(
        one.witness is Witness.STANDARD for one in finding.testimonies
    )
    return "" if alone else finding.conclusion


def worst(findings: Iterable[Finding | ArchivedFinding]) -> int:
    """The rank of the worst severity among findings; what has none comes last."""
    return min((RANK[finding.severity] for finding in findings), default=len(RANK))
