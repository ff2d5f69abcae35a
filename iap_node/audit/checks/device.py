"""Whether the scanner that the header names is the one that wrote it."""

from __future__ import annotations

from collections.abc import Iterator

from iap_node.audit.checks import tags, vendors
from iap_node.audit.checks.check import Check, Doubt, Scope, is_original, shown, title
from iap_node.audit.checks.units import FIELD_TOLERANCE
from iap_node.dicom.statements import InstanceStatements
from iap_node.records import FindingKind, Severity

_FIELD_OF_PRODUCT_TOLERANCE = 0.1  # 2.89 T is 3 T, 1.494 T is 1.5 T; products differ by half


def manufacturer(instance: InstanceStatements) -> Iterator[Doubt]:
    """Manufacturer is the one whose traces the header bears."""
    top = instance.top
    raw = top.text(tags.MANUFACTURER)
    stated = vendors.by_name(raw)
    if stated is None or not is_original(top):
        return
    traces = {
        f"Manufacturer's Model Name {shown(top.text(tags.MANUFACTURER_MODEL_NAME))}": vendors.by_model(
            top.text(tags.MANUFACTURER_MODEL_NAME)
        ),
        f"Software Versions {shown(top.text(tags.SOFTWARE_VERSIONS))}": vendors.by_software(
            top.text(tags.SOFTWARE_VERSIONS)
        ),
        "SOP Instance UID's root": vendors.by_uid(instance.sop_instance_uid),
    }
    makers = vendors.by_creators(instance.creators)
    if len(makers) == 1:
        traces["private blocks"] = next(iter(makers))
    if any(term.endswith("_GEMS") for term in top.terms(tags.SCAN_OPTIONS)):
        traces["Scan Options ending in _GEMS"] = vendors.GE
    against = {trace: vendor for trace, vendor in traces.items() if vendor is not None and vendor != stated}
    for_it = [trace for trace, vendor in traces.items() if vendor == stated]
    # A workstation or archive of another maker may have renamed the instance or added its private block: the UID's
    # root alone says nothing.
    if not against or (len(against) == 1 and "SOP Instance UID's root" in against) or len(for_it) >= len(against):
        return
    others = sorted(set(against.values()))
    listed = "; ".join(f"{trace} ({vendor})" for trace, vendor in against.items())
    evidence = f"{title(tags.MANUFACTURER)} is '{shown(raw)}'; another maker's are: {listed}"
    yield Doubt(tags.MANUFACTURER, evidence, raw, others[0] if len(others) == 1 else None)


def model(instance: InstanceStatements) -> Iterator[Doubt]:
    """The model is one of the manufacturer's, where every other trace is that manufacturer's too."""
    top = instance.top
    raw = top.text(tags.MANUFACTURER_MODEL_NAME)
    maker, stated = vendors.by_model(raw), vendors.by_name(top.text(tags.MANUFACTURER))
    if maker is None or stated is None or maker == stated or not is_original(top):
        return
    traces = {vendors.by_software(top.text(tags.SOFTWARE_VERSIONS)), vendors.by_uid(instance.sop_instance_uid)}
    traces |= vendors.by_creators(instance.creators)
    if maker not in traces:
        evidence = (
            f"{title(tags.MANUFACTURER_MODEL_NAME)} is '{shown(raw)}', a scanner of {maker}; Manufacturer is "
            f"'{shown(top.text(tags.MANUFACTURER))}'"
        )
        yield Doubt(tags.MANUFACTURER_MODEL_NAME, evidence, raw)


def model_and_field(instance: InstanceStatements) -> Iterator[Doubt]:
    """A product that was sold with one field strength has that one."""
    top = instance.top
    raw, field = top.text(tags.MANUFACTURER_MODEL_NAME), top.number(tags.MAGNETIC_FIELD_STRENGTH)
    product = vendors.field_by_model(raw)
    if product is None or field is None or not 0 < field < 30:
        return
    if abs(field - product) > max(_FIELD_OF_PRODUCT_TOLERANCE, FIELD_TOLERANCE) * product:
        evidence = (
            f"{title(tags.MAGNETIC_FIELD_STRENGTH)} is {field:g} T, Manufacturer's Model Name '{shown(raw)}' is a "
            f"scanner of {product:g} T"
        )
        yield Doubt(tags.MAGNETIC_FIELD_STRENGTH, evidence, top.text(tags.MAGNETIC_FIELD_STRENGTH), f"{product:g}")


def scan_options(instance: InstanceStatements) -> Iterator[Doubt]:
    """Options ending in _GEMS are GE's."""
    top = instance.top
    options = [term for term in top.terms(tags.SCAN_OPTIONS) if term.endswith("_GEMS")]
    stated = vendors.by_name(top.text(tags.MANUFACTURER))
    if not options or stated in (None, vendors.GE):
        return
    if vendors.GE in vendors.by_creators(instance.creators) or vendors.by_uid(instance.sop_instance_uid) == vendors.GE:
        return  # then the manufacturer is wrong, which `manufacturer` says
    raw = top.text(tags.SCAN_OPTIONS)
    evidence = f"{title(tags.SCAN_OPTIONS)} holds {shown(options[0])}, which GE alone writes; this is {stated}"
    yield Doubt(tags.SCAN_OPTIONS, evidence, raw)


def serial_number(instance: InstanceStatements) -> Iterator[Doubt]:
    """Device Serial Number is the one in the UIDs that the scanner made."""
    top = instance.top
    raw = top.text(tags.DEVICE_SERIAL_NUMBER)
    made = vendors.serial_in_uid(instance.sop_instance_uid)
    if made is None or not raw.isdigit() or not raw.strip("0") or not is_original(top):
        return
    series = vendors.serial_in_uid(top.text(tags.SERIES_INSTANCE_UID))
    if raw.lstrip("0") != made.lstrip("0") and series == made:
        evidence = f"{title(tags.DEVICE_SERIAL_NUMBER)} is {shown(raw)}, its UIDs were made by scanner {made}"
        yield Doubt(tags.DEVICE_SERIAL_NUMBER, evidence, raw, made)


CHECKS = (
    Check(
        "manufacturer-and-traces",
        (tags.MANUFACTURER, tags.MANUFACTURER_MODEL_NAME, tags.SOFTWARE_VERSIONS, tags.SOP_INSTANCE_UID,
        tags.SCAN_OPTIONS), FindingKind.CONTRADICTION, Severity.WARNING,
        "model, software, private blocks, UID root and _GEMS options do not, by majority, name another maker",
        "PS3.5 7.8.1 (private creators), B.1 (UID roots); what real headers of five makers bear",
        "unknown makers and models; UIDs given by another maker's archive; private blocks that a workstation added; "
        "Canon and Toshiba are one; derived images",
        Scope.INSTANCE, manufacturer,
    ),
    Check(
        "model-and-manufacturer", (tags.MANUFACTURER_MODEL_NAME, tags.MANUFACTURER), FindingKind.CONTRADICTION,
        Severity.WARNING,
        "the model is not another maker's product, where no other trace of that maker is there",
        "PS3.3 C.7.5.1; product names as sold, which no standard lists",
        "models not known here, whatever their spelling; derived images",
        Scope.INSTANCE, model,
    ),
    Check(
        "model-and-field-strength", (tags.MAGNETIC_FIELD_STRENGTH, tags.MANUFACTURER_MODEL_NAME),
        FindingKind.CONTRADICTION, Severity.WARNING,
        "a product that was sold with one field, or whose name states it, has that field, 10 %",
        "PS3.3 C.7.5.1, C.8.3.1; product names as sold, which no standard lists",
        "products sold with several fields (Signa HDxt, Achieva, Ingenia, Vantage); models not known here",
        Scope.INSTANCE, model_and_field,
    ),
    Check(
        "scan-options-of-another-vendor", (tags.SCAN_OPTIONS, tags.MANUFACTURER), FindingKind.CONTRADICTION,
        Severity.NOTE,
        "options ending in _GEMS are on GE's images only",
        "GE's own terms; holds on all real headers measured",
        "unknown manufacturers; empty options, normal with Siemens",
        Scope.INSTANCE, scan_options,
    ),
    Check(
        "serial-number-and-uid", (tags.DEVICE_SERIAL_NUMBER, tags.SOP_INSTANCE_UID, tags.SERIES_INSTANCE_UID),
        FindingKind.CONTRADICTION, Severity.NOTE,
        "Device Serial Number is the number in SOP and Series Instance UID (Siemens, Philips, Canon)",
        "UIDs of real instances; PS3.5 B.1 lets a maker put it there",
        "UIDs given elsewhere; serial numbers that are not digits, or zeros, as de-identification leaves them; derived "
        "images",
        Scope.INSTANCE, serial_number,
    ),
)  # fmt: skip
