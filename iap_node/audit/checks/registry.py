"""All header checks as data, and the one way to run them over a series."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from iap_node.audit.checks import (
    constancy,
    contrast,
    device,
    functional_groups,
    geometry,
    pixel_description,
    presence,
    relations,
    representation,
    terms,
    units,
)
from iap_node.audit.checks.check import RAW_TEXT_LIMIT, Check, Doubt, Scope, keyword
from iap_node.dicom.sop_classes import ENHANCED_MR_COLOR_IMAGE_STORAGE, MR_IMAGE_SOP_CLASSES
from iap_node.dicom.statements import InstanceStatements
from iap_node.records import Finding

CHECKS: tuple[Check, ...] = (
    *presence.CHECKS,
    *representation.CHECKS,
    *terms.CHECKS,
    *units.CHECKS,
    *relations.CHECKS,
    *geometry.CHECKS,
    *contrast.CHECKS,
    *device.CHECKS,
    *constancy.CHECKS,
    *functional_groups.CHECKS,
    *pixel_description.CHECKS,
)
_IMAGES = MR_IMAGE_SOP_CLASSES | {ENHANCED_MR_COLOR_IMAGE_STORAGE}


def check_series(instances: Sequence[InstanceStatements], checks: Sequence[Check] = CHECKS) -> tuple[Finding, ...]:
    """What the headers of one series have against them, one finding per element and check.

    Parameters
    ----------
    instances
        All instances of the series, in any order; those that are no MR images are left out.
    checks
        Which checks, in any order.

    Returns
    -------
    tuple of Finding
        Ordered by element, then by check; the same for the same instances, whatever their order.
    """
    images = sorted((one for one in instances if one.sop_class_uid in _IMAGES), key=lambda one: one.sop_instance_uid)
    found: list[tuple[int, Finding]] = []
    for check in checks:
        for tag, (doubt, affected) in _doubts(check, images).items():
            found.append((tag, _finding(check, doubt, affected, len(images))))
    found.sort(key=lambda one: (one[0], one[1].check))
    return tuple(finding for _, finding in found)


def _doubts(check: Check, images: Sequence[InstanceStatements]) -> dict[int, tuple[Doubt, int | None]]:
    """The first doubt about each element, and how many instances are affected; None where the series as a whole is."""
    if check.scope is Scope.SERIES:
        return {doubt.tag: (doubt, None) for doubt in reversed(list(_examine(check, images)))} if images else {}
    first: dict[int, tuple[Doubt, int | None]] = {}
    for instance in images:
        if check.scope is Scope.INSTANCE:
            doubts = list(_examine(check, instance))
        else:
            doubts = [doubt for image in instance.images for doubt in _examine(check, image, instance)]
        for tag in dict.fromkeys(doubt.tag for doubt in doubts):
            doubt, affected = first.get(tag, (None, 0))
            first[tag] = (doubt or next(one for one in doubts if one.tag == tag), (affected or 0) + 1)
    return first


def _examine(check: Check, *arguments: object) -> Iterable[Doubt]:
    return check.examine(*arguments)  # type: ignore[arg-type]  # the scope says which arguments


def _finding(check: Check, doubt: Doubt, affected: int | None, instances: int) -> Finding:
    where = "" if affected is None or instances == 1 else f" ({affected} of {instances} instances)"
    return Finding(
        element=keyword(doubt.tag),
        check=check.name,
        kind=check.kind,
        severity=check.severity,
        evidence=f"{doubt.evidence}{where}",
        raw=doubt.raw[:RAW_TEXT_LIMIT],
        suggested_value=doubt.suggested if len(doubt.suggested or "") <= RAW_TEXT_LIMIT else None,
    )
