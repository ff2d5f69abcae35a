"""The pixels as a witness: what the comparison of a header with its images makes of each value, and of all together.

`pixel_findings` says what is against a header, `pixel_testimony` what the pixels know of a value that another witness
doubts. What is inferred by association may ask, never accuse. Called by the worker and by `pixels_at_rest`; pure
functions.

The whole header is found against (`pixels-joint`) only where that adds something to the single values: when several
are contradicted, which looks like another series' header rather than like several mistakes (a manufacturer with its
model is one), or when the rest does not fit either with the contradicted value left aside. One wrong value is one
alarm.

Nothing here is an error, only a warning: a right header is contradicted at a rate of about alpha, whatever the element.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from iap_node.audit.verdicts import ASSOCIATION, shown
from iap_node.config import AuditConfig
from iap_node.dicom.parameters import (
    BY_KEYWORD,
    CONTRAST_ABSENT,
    CONTRAST_NOT_NAMED,
    AcquisitionParameter,
    Nature,
    canonical_number,
)
from iap_node.records import (
    Finding,
    FindingKind,
    HeaderComparison,
    HeaderFit,
    HeaderValue,
    ParameterKind,
    SeriesHeader,
    SeriesPrediction,
    Severity,
    Testimony,
    Verdict,
    Witness,
)

CONTRADICT = "pixels-contradict"
MISSING = "pixels-missing"
QUESTION = "pixels-question"
JOINT = "pixels-joint"
WHOLE_HEADER = "SeriesInstanceUID"  # the element of what is found against a header as a whole

RAW_TEXT_LIMIT = 256  # characters of a raw value in a finding
_ONE_MISTAKE = frozenset({"Manufacturer", "ManufacturerModelName"})  # what one wrong entry makes wrong
_NAMED = 4  # values that the evidence of the whole header lists
_NOT_WRITABLE = {CONTRAST_ABSENT, CONTRAST_NOT_NAMED}  # classes of the model that stand for no text


def pixel_findings(
    comparisons: Sequence[HeaderComparison],
    header: SeriesHeader,
    prediction: SeriesPrediction | None,
    config: AuditConfig,
    others: Sequence[Finding] = (),
) -> tuple[Finding, ...]:
    """What the pixels have against a header, the whole first, then its values in the order of the comparisons.

    Parameters
    ----------
    comparisons
        Of `iap_node.audit.verdicts.compare`, for this header and prediction.
    prediction
        None, novel, or of a model that is not calibrated: the pixels say nothing.
    others
        What other witnesses found: a missing value that they report is not reported again.
    """
    if prediction is None or not prediction.speaks:
        return ()
    contradicted = {item.keyword for item in comparisons if item.verdict is Verdict.CONTRADICTS}
    reported = {finding.element for finding in others if finding.kind is FindingKind.MISSING}
    found = _whole_header(prediction, header, contradicted, config)
    for item in comparisons:
        value = header.value(item.keyword)
        if item.verdict is Verdict.CONTRADICTS:
            found.append(_contradiction(item, value, prediction))
        elif _is_question(item):
            found.append(_question(item, value, prediction))
        elif _is_missing(item, header, prediction) and BY_KEYWORD[item.keyword].element not in reported:
            found.append(_missing(item, prediction))
    return tuple(found)


def pixel_testimony(comparison: HeaderComparison, prediction: SeriesPrediction | None = None) -> Testimony | None:
    """What the pixels say of one value; None where they were not heard, or know it by association only.

    Parameters
    ----------
    prediction
        Where the comparison comes from; given, the statement names the model and what it was trained on.
    """
    parameter = BY_KEYWORD[comparison.keyword]
    if comparison.verdict is Verdict.NOT_JUDGED or _is_by_association(comparison, prediction):
        return None
    source = f" ({_model(prediction)})" if prediction else ""
    if comparison.verdict is Verdict.AGREES:
        how = _how_likely(comparison, prediction)
        statement = f"the pixels allow {parameter.title} {_stated(comparison)}: {how}{source}"
        return Testimony(Witness.PIXELS, False, statement, comparison.header_probability)
    if comparison.verdict is Verdict.MISSING and not comparison.suggested_value:
        return None
    suggested = _as_written(parameter, comparison.suggested_value, "") or ""
    if comparison.verdict is Verdict.MISSING:
        statement = f"the pixels look like {parameter.title} {comparison.predicted_value}: {comparison.reason}{source}"
        return Testimony(Witness.PIXELS, True, statement, None, suggested)
    how = _how_likely(comparison, prediction)
    statement = f"the pixels rule out {parameter.title} {_stated(comparison)}, {how}: {comparison.reason}{source}"
    return Testimony(Witness.PIXELS, True, statement, comparison.header_probability, suggested)


def _is_by_association(comparison: HeaderComparison, prediction: SeriesPrediction | None) -> bool:
    """Whether the pixels know a value by association only; a comparison that agrees does not say so itself."""
    predicted = () if prediction is None else prediction.parameters
    return ASSOCIATION in comparison.reason or any(
        one.by_association for one in predicted if one.keyword == comparison.keyword
    )


# ---------------------------------------------------------------- single values


def _contradiction(item: HeaderComparison, value: HeaderValue, prediction: SeriesPrediction) -> Finding:
    parameter = BY_KEYWORD[item.keyword]
    return Finding(
        element=parameter.element,
        check=CONTRADICT,
        kind=FindingKind.CONTRADICTION,
        severity=Severity.WARNING,
        evidence=(
            f"{_title(parameter)} is {_stated(item)}: {item.reason}. The pixels look like {item.predicted_value}; "
            f"the stated value has {_how_likely(item, prediction)}. {_source(prediction)}"
        ),
        raw=value.raw[:RAW_TEXT_LIMIT],
        suggested_value=_as_written(parameter, item.suggested_value, value.raw),
        raised_by=Witness.PIXELS,
    )


def _is_missing(item: HeaderComparison, header: SeriesHeader, prediction: SeriesPrediction) -> bool:
    """Whether the pixels can fill a gap that is one: the vendor does not leave the element empty as a rule."""
    if item.verdict is not Verdict.MISSING or not item.suggested_value:
        return False
    return item.keyword != "ScanOptions" or not _is_siemens(header, prediction)


def _missing(item: HeaderComparison, prediction: SeriesPrediction) -> Finding:
    parameter = BY_KEYWORD[item.keyword]
    return Finding(
        element=parameter.element,
        check=MISSING,
        kind=FindingKind.MISSING,
        severity=Severity.NOTE,
        evidence=(
            f"{_title(parameter)} is missing; the pixels look like {item.predicted_value}: {item.reason}. "
            f"{_source(prediction)}"
        ),
        raw="",
        suggested_value=_as_written(parameter, item.suggested_value, ""),
        raised_by=Witness.PIXELS,
    )


def _is_question(item: HeaderComparison) -> bool:
    """Whether a value that is known by association only is unlike the pixels, or missing where they are sure of one.

    That there was no contrast agent is what most headers rightly say by having none: no question.
    """
    if ASSOCIATION not in item.reason or item.header_value == CONTRAST_ABSENT:
        return False
    if item.verdict is Verdict.MISSING:
        return bool(item.suggested_value)
    return item.verdict is Verdict.NOT_JUDGED and item.header_probability is not None


def _question(item: HeaderComparison, value: HeaderValue, prediction: SeriesPrediction) -> Finding:
    parameter = BY_KEYWORD[item.keyword]
    if item.verdict is Verdict.MISSING:
        evidence = f"{_title(parameter)} is missing: {item.reason}"
    else:
        how = _how_likely(item, prediction)
        evidence = f"{_title(parameter)} is {_stated(item)}, which has {how} in series like this one: {item.reason}"
    return Finding(
        element=parameter.element,
        check=QUESTION,
        kind=FindingKind.QUESTION,
        severity=Severity.NOTE,
        evidence=f"{evidence}. {_source(prediction)}",
        raw=value.raw[:RAW_TEXT_LIMIT],
        suggested_value=None,  # a habit of others is nothing to write into a header
        raised_by=Witness.PIXELS,
    )


def _is_siemens(header: SeriesHeader, prediction: SeriesPrediction) -> bool:
    """Whether the scanner is, or may be, of Siemens, which leaves Scan Options (0018,0022) empty."""
    stated = header.value("Manufacturer").canonical
    if stated is not None:
        return "siemens" in str(stated).casefold()
    pixels = next((one for one in prediction.parameters if one.keyword == "Manufacturer"), None)
    return pixels is None or any("siemens" in label.casefold() for label in pixels.prediction_set)


# ---------------------------------------------------------------- the whole header


def _whole_header(
    prediction: SeriesPrediction, header: SeriesHeader, contradicted: set[str], config: AuditConfig
) -> list[Finding]:
    fit = prediction.header_fit
    if fit is None or fit.p_value > config.joint_alpha or not _adds_something(fit, contradicted, config.joint_alpha):
        return []
    stated = {term.keyword: header.value(term.keyword).canonical for term in fit.terms}
    named = ", ".join(
        f"{BY_KEYWORD[term.keyword].title} {shown(BY_KEYWORD[term.keyword].text_with_unit(stated[term.keyword]))} "
        f"(p {term.p_value:.2g})"
        for term in fit.terms[:_NAMED]
    )
    statement = (
        f"taken together, the {len(fit.terms)} values that this header states fit its pixels badly: only "
        f"{_percent(fit.p_value)} of right headers fit no better (joint alpha {config.joint_alpha:g}); "
        f"what weighs most: {named}"
    )
    evidence = f"{statement[0].upper()}{statement[1:]}. The header may be another series'. {_source(prediction)}"
    return [
        Finding(
            element=WHOLE_HEADER,
            check=JOINT,
            kind=FindingKind.CONTRADICTION,
            severity=Severity.WARNING,
            evidence=evidence,
            raw=_digest(stated),
            suggested_value=None,
            raised_by=Witness.PIXELS,
            testimonies=(Testimony(Witness.PIXELS, True, f"{statement} ({_model(prediction)})", fit.p_value),),
        )
    ]


def _digest(stated: Mapping[str, str | float | None]) -> str:
    """What a decision about the header as a whole holds for: other values are another question."""
    text = "\\".join(f"{keyword}={value}" for keyword, value in sorted(stated.items()))
    return f"{len(stated)} values, {hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _adds_something(fit: HeaderFit, contradicted: set[str], alpha: float) -> bool:
    """Whether the doubt about the header as a whole is more than that about the values which are contradicted."""
    if len(contradicted - _ONE_MISTAKE) + bool(contradicted & _ONE_MISTAKE) > 1:
        return True
    places = [place for place, term in enumerate(fit.terms) if term.keyword in contradicted]
    if not places:
        return True
    last = max(places)  # left aside with all that weighs more
    return last < len(fit.without) and fit.without[last] <= alpha


# ---------------------------------------------------------------- words


def _as_written(parameter: AcquisitionParameter, suggested: str, raw: str) -> str | None:
    """A suggestion as the element would be written; None where it cannot be told from it."""
    if not suggested or suggested in _NOT_WRITABLE or parameter.element != parameter.keyword:
        return None
    if parameter.nature is not Nature.MATRIX:
        return suggested
    steps = iter(suggested.split("x"))
    parts = [canonical_number(part) for part in raw.split("\\")]
    if len(parts) != 4 or len([part for part in parts if part]) != 2:  # rows or columns: only the header knew
        return None
    return "\\".join(next(steps) if part else "0" for part in parts)


def _title(parameter: AcquisitionParameter) -> str:
    group, element = parameter.tag
    if parameter.element != parameter.keyword:
        return f"{parameter.title}, Rows times Pixel Spacing ({group:04X},{element:04X}),"
    return f"{parameter.title} ({group:04X},{element:04X})"


def _stated(item: HeaderComparison) -> str:
    unit = BY_KEYWORD[item.keyword].unit
    return f"{shown(item.header_value)} {unit}" if unit else f"'{shown(item.header_value)}'"


def _how_likely(item: HeaderComparison, prediction: SeriesPrediction | None) -> str:
    """The probability of a class, or the conformal p-value of a number, which is known in steps."""
    probability = item.header_probability or 0.0
    pixels = next((one for one in prediction.parameters if one.keyword == item.keyword), None) if prediction else None
    if pixels is None:
        return f"p {probability:.2g}"
    if pixels.kind is ParameterKind.CATEGORICAL:
        return f"a probability of {_percent(probability)}"
    if probability:
        return f"a p-value of {probability:.2g}"
    return f"a p-value below {min((alpha for alpha, _, _ in pixels.intervals), default=pixels.alpha):g}"


def _percent(share: float) -> str:
    """Two digits, and never zero: what is rare must not read as impossible."""
    return f"{100 * share:.2g} %" if share >= 1e-4 else "less than 0.01 %"


def _source(prediction: SeriesPrediction) -> str:
    slices = "slice" if prediction.n_slices == 1 else "slices"
    return f"Judged from {prediction.n_slices} {slices} by {_model(prediction)}."


def _model(prediction: SeriesPrediction) -> str:
    return f"model {prediction.model_id}, {prediction.training_data}"
