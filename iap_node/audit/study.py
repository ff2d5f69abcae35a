"""The vertical audit: what cannot differ between the series of one study, compared across them, as mrQA does.

Called by `habit` for one series, and by the audit of a folder for all. Only original images are compared: workstations
write derived ones in their own name. Two series of one frame of reference come from one scanner and one position of the
patient (PS3.3 C.7.4.1); two series of one serial number come from one scanner, whose software nobody changes meanwhile.

References
----------
Sinha & Raamana 2024, Neuroinformatics, doi 10.1007/s12021-024-09668-4 (mrQA: horizontal and vertical audit).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from iap_node.audit.checks.check import RAW_TEXT_LIMIT, shown, title
from iap_node.audit.groups import Classes, classify
from iap_node.audit.vocabulary import Vocabulary
from iap_node.dicom.protocol import BY_NAME
from iap_node.records import Finding, FindingKind, Severity, StatedProtocol, Testimony, Witness

STUDY = "habit-study"

_SCANNER = ("Manufacturer", "ManufacturerModelName", "SoftwareVersions", "MagneticFieldStrength", "ImagingFrequency")
_OF_FRAME = ("DeviceSerialNumber", *_SCANNER, "PatientPosition")
_FRAME, _DEVICE = "in the same frame of reference", "from the same scanner"


def study_findings(series: Sequence[StatedProtocol], vocabulary: Vocabulary) -> list[tuple[Finding, ...]]:
    """What each series of a study states otherwise than most of the others, where they cannot differ.

    Where as many say the one as the other, both are told, without a suggestion.

    Parameters
    ----------
    series
        All series of the study, of any kind.
    """
    stated = [dict(one.values) for one in series]
    found: list[dict[str, Finding]] = [{} for _ in series]
    frames: defaultdict[str, list[int]] = defaultdict(list)
    devices: defaultdict[str, list[int]] = defaultdict(list)
    for place, (one, values) in enumerate(zip(series, stated, strict=True)):
        if not _is_original(one, values):
            continue
        if "FrameOfReferenceUID" in values:
            frames[values["FrameOfReferenceUID"]].append(place)
        if one.serial_number:
            devices[one.device].append(place)
    for scope, keywords, groups in ((_FRAME, _OF_FRAME, frames), (_DEVICE, _SCANNER, devices)):
        for places in groups.values():
            for keyword in keywords if len(places) > 1 else ():
                for alike in _of_one_nucleus(keyword, places, stated):
                    texts = [stated[place].get(keyword) for place in alike]
                    classes = classify(BY_NAME[keyword], texts, {}, vocabulary)
                    for place, text, index in zip(alike, texts, classes.of, strict=True):
                        is_of_another = "DeviceSerialNumber" in found[place] and keyword in _SCANNER
                        if text is not None and index is not None and keyword not in found[place] and not is_of_another:
                            finding = _finding(keyword, text, index, classes, scope)
                            if finding is not None:
                                found[place][keyword] = finding
    return [tuple(findings.values()) for findings in found]


def _is_original(one: StatedProtocol, values: dict[str, str]) -> bool:
    kind = values.get("ImageType", "").casefold() or one.protocol.rpartition("\\")[2]
    return "derived" not in kind


def _of_one_nucleus(keyword: str, places: Sequence[int], stated: Sequence[dict[str, str]]) -> list[list[int]]:
    """Series whose values can be compared: a frequency is another for each nucleus."""
    if keyword != "ImagingFrequency":
        return [list(places)]
    of_nucleus: defaultdict[str, list[int]] = defaultdict(list)
    for place in places:
        nucleus = stated[place].get("ImagedNucleus", "1H").casefold()
        of_nucleus["1h" if nucleus == "h" else nucleus].append(place)
    return list(of_nucleus.values())


def _finding(keyword: str, text: str, index: int, classes: Classes, scope: str) -> Finding | None:
    if len(classes.sizes) < 2:
        return None
    tie = classes.sizes[0] == classes.sizes[1] and classes.sizes[index] == classes.sizes[0]
    if index == 0 and not tie:
        return None
    usual = 0 if index else 1
    element = BY_NAME[keyword]
    others = classes.n_stating - 1
    n_same, n_own = classes.sizes[usual], classes.sizes[index] - 1
    counted = f"{n_same} of {others} other series of this study {scope} have" if others > 1 else (
        f"the other series of this study {scope} has"
    )  # fmt: skip
    statement = f"{counted} {_quoted(keyword, classes.texts[usual])}" + (f", {n_own} this one's" if n_own else "")
    is_measured = 2 * classes.n_written[usual] < classes.sizes[usual]  # each time anew: a frequency
    value = "" if tie or is_measured else classes.texts[usual]
    return Finding(
        element=keyword,
        check=STUDY,
        kind=FindingKind.INCONSTANT,
        severity=Severity.NOTE if tie else Severity.WARNING,
        evidence=f"{title(element.tag)} is {_quoted(keyword, text)}; {statement}",
        raw=text[:RAW_TEXT_LIMIT],
        suggested_value=value[:RAW_TEXT_LIMIT] or None,
        raised_by=Witness.HABIT,
        testimonies=(Testimony(Witness.HABIT, True, statement, (n_own + 1) / (others + 2), value),),
    )


def _quoted(keyword: str, text: str) -> str:
    element = BY_NAME[keyword]
    return shown(element.text(text)) if element.parameter.unit else f"'{shown(text)}'"
