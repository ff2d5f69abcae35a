"""The contrast agent and what goes with it (PS3.3 C.7.6.4)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from iap_node.audit.checks import tags
from iap_node.audit.checks.check import Check, Doubt, Scope, keyword, shown, title
from iap_node.dicom.parameters import canonical_number
from iap_node.dicom.statements import InstanceStatements
from iap_node.records import FindingKind, Severity

_COMPANIONS = (
    tags.CONTRAST_BOLUS_ROUTE, tags.CONTRAST_BOLUS_VOLUME, tags.CONTRAST_BOLUS_START_TIME,
    tags.CONTRAST_BOLUS_STOP_TIME, tags.CONTRAST_BOLUS_TOTAL_DOSE, tags.CONTRAST_FLOW_RATE,
    tags.CONTRAST_FLOW_DURATION, tags.CONTRAST_BOLUS_INGREDIENT, tags.CONTRAST_BOLUS_INGREDIENT_CONCENTRATION,
)  # fmt: skip
_NO_AGENT = re.compile(r"(no|none|n|without|ohne|sans|nil|n/?a|unenhanced|native?|no contrast|w/?o|-+)", re.IGNORECASE)
_LARGEST_VOLUME_ML = 200.0  # 0.2 mmol/kg of a 0.5 molar agent for 150 kg are 60 ml; with the flush less than this


def companions(instance: InstanceStatements) -> Iterator[Doubt]:
    """A bolus with its volume, route or time has an agent."""
    agent = instance.top.get(tags.CONTRAST_BOLUS_AGENT)
    if agent is not None and agent.raw:
        return
    stated = [tag for tag in _COMPANIONS if _says_something(instance.top.text(tag))]
    if stated:
        how = "is absent" if agent is None else "is empty"
        listed = ", ".join(f"{keyword(tag)} {shown(instance.top.text(tag))}" for tag in stated[:3])
        yield Doubt(tags.CONTRAST_BOLUS_AGENT, f"{title(tags.CONTRAST_BOLUS_AGENT)} {how}, but there is {listed}")


def _says_something(raw: str) -> bool:
    number = canonical_number(raw)
    return bool(raw.strip()) and number != 0 and not _NO_AGENT.fullmatch(raw.strip())


def no_agent(instance: InstanceStatements) -> Iterator[Doubt]:
    """The name of an agent is not a way to say that there was none."""
    raw = instance.top.text(tags.CONTRAST_BOLUS_AGENT)
    if raw and _NO_AGENT.fullmatch(raw.strip()):
        evidence = (
            f"{title(tags.CONTRAST_BOLUS_AGENT)} says '{shown(raw)}'; software that asks whether an agent is named "
            "takes the image for a contrast-enhanced one"
        )
        yield Doubt(tags.CONTRAST_BOLUS_AGENT, evidence, raw)


def volume(instance: InstanceStatements) -> Iterator[Doubt]:
    """Volume and dose are in ml."""
    for tag in (tags.CONTRAST_BOLUS_VOLUME, tags.CONTRAST_BOLUS_TOTAL_DOSE):
        number, raw = instance.top.number(tag), instance.top.text(tag)
        if number is not None and not 0 <= number <= _LARGEST_VOLUME_ML:
            yield Doubt(tag, f"{title(tag)} is {shown(raw)} ml, outside of 0 to {_LARGEST_VOLUME_ML:g}", raw)


CHECKS = (
    Check(
        "contrast-companions", (tags.CONTRAST_BOLUS_AGENT, *_COMPANIONS), FindingKind.MISSING, Severity.WARNING,
        "Contrast/Bolus Agent has a value where its volume, dose, route, time, flow or ingredient says something",
        "PS3.3 C.7.6.4 (Agent: type 2 of the module)",
        "Philips' empty agent without companions; companions of 0 or empty (Siemens)",
        Scope.INSTANCE, companions,
    ),
    Check(
        "contrast-agent-denied", (tags.CONTRAST_BOLUS_AGENT,), FindingKind.VALUE, Severity.NOTE,
        "the agent is not one of: no, none, n, without, unenhanced, native, n/a",
        "PS3.3 C.7.6.4",
        "an empty or absent agent",
        Scope.INSTANCE, no_agent,
    ),
    Check(
        "contrast-volume-range", (tags.CONTRAST_BOLUS_VOLUME, tags.CONTRAST_BOLUS_TOTAL_DOSE), FindingKind.UNIT,
        Severity.NOTE,
        f"0 to {_LARGEST_VOLUME_ML:g} ml",
        "PS3.3 C.7.6.4 (ml)",
        "0",
        Scope.INSTANCE, volume,
    ),
)  # fmt: skip
