"""The scanner's habit as a witness: what this device with this software usually writes for this protocol.

Called by the worker for one series against the archive, and by the audit of a folder for each against the others::

    vocabulary = learn_vocabulary(load_vocabulary(config.vocabulary), device_spellings(session), scan_options(session))
    own = stated_protocol(instances, vocabulary)
    past, study = history(session, own, series_id, config.series), of_study(session, series_id)
    habit = learn_habit(own, past, config, vocabulary, study[0].study if study else "")
    found = habit_findings(own, habit, study)
    habit_testimony("EchoTime", own, habit)     # for or against what another witness found

What is usual is worked out by `usual`; here it is said.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from iap_node.audit.checks.check import RAW_TEXT_LIMIT, shown, title
from iap_node.audit.protocol import stated_protocol
from iap_node.audit.study import STUDY, study_findings
from iap_node.audit.usual import (
    Habit,
    Usual,
    class_of,
    is_adapted,
    is_out_of_proportion,
    known_variant,
    learn_habit,
    others_range,
    usual_of,
)
from iap_node.dicom.parameters import Nature
from iap_node.dicom.protocol import ELEMENTS, Form, ProtocolElement, Role
from iap_node.records import Finding, FindingKind, PastSeries, Severity, StatedProtocol, Testimony, Witness

__all__ = [
    "DEVIATES", "SOFTWARE_CHANGED", "STUDY", "Habit", "habit_findings", "habit_testimony", "learn_habit",
    "one_voice", "software_finding", "stated_protocol", "study_findings",
]  # fmt: skip

DEVIATES, SOFTWARE_CHANGED = "habit-deviates", "habit-software-changed"
WHOLE_HEADER = "SeriesInstanceUID"

NEARLY_ALL = 0.95  # of the series, before a value that none of them has is a warning, or a missing one is told
MOST_DEVIATIONS = 4  # told one by one: a series that differs in more is another protocol under this name
MOST_MISSING = 2  # told one by one: who leaves out more was made anonymous, or exported otherwise
MOST_SHOWN = 6  # elements in one sentence

_OF_FINDING = {element.parameter.element: element for element in ELEMENTS if element.role is not Role.STUDY}


def habit_findings(own: StatedProtocol, habit: Habit, study: Sequence[PastSeries] = ()) -> tuple[Finding, ...]:
    """What the scanner's habit, and the other series of its study, have against the header of a series.

    Parameters
    ----------
    study
        The other series of the study: `database.protocols.of_study`.
    """
    changed = software_finding(own, habit)
    found = [*deviations(own, habit), *([changed] if changed else [])]
    if not study:
        return tuple(found)
    return one_voice(found, study_findings([own, *(one.protocol for one in study)], habit.vocabulary)[0])


def one_voice(found: Sequence[Finding], of_study: Sequence[Finding]) -> tuple[Finding, ...]:
    """What the habit found, and what the study found: an element that differs within its study is told once."""
    elements = {one.element for one in of_study}
    return (*(one for one in found if one.element not in elements), *of_study)


def software_finding(own: StatedProtocol, habit: Habit) -> Finding | None:
    """That the device has another software than in all earlier series of this protocol; told of the first one only."""
    before = habit.before
    if not own.software_versions or len(before) < habit.config.min_series:
        return None
    newest = before[0]
    text = dict(own.values).get("SoftwareVersions", own.software_versions)
    usual = dict(newest.protocol.values).get("SoftwareVersions", newest.protocol.software_versions)
    n_same = sum(one.protocol.software_versions == newest.protocol.software_versions for one in before)
    statement = (
        f"none of {len(before)} earlier series of this protocol on this scanner has it, {n_same} have "
        f"'{shown(usual)}'; what is usual is learned anew from {habit.config.min_series} series on"
    )
    return Finding(
        element="SoftwareVersions",
        check=SOFTWARE_CHANGED,
        kind=FindingKind.DEVIATION,
        severity=Severity.NOTE,
        evidence=f"{title(0x00181020)} is '{shown(text)}'; {statement}",
        raw=text[:RAW_TEXT_LIMIT],
        suggested_value=None,
        raised_by=Witness.HABIT,
        testimonies=(Testimony(Witness.HABIT, True, statement),),
    )


def habit_testimony(element: str, own: StatedProtocol, habit: Habit) -> Testimony | None:
    """What the habit says of an element that another witness found fault with; None where it knows nothing of it.

    The probability is Laplace's (k + 1) / (n + 2) of the header's own value, seen in k of n series.
    """
    known = _OF_FINDING.get(element)
    if known is None or habit.population is None:
        return None
    text = dict(own.values).get(known.keyword)
    index = class_of(known, text, habit)
    if is_adapted(known, own, habit):
        return _range_testimony(known, text, habit)
    usual = usual_of(known, index, habit)
    if usual is None or not usual.speaks:
        return None
    if usual.is_own:
        statement = f"{_counted(usual.n_same, usual.n_stating, habit)} {_shown(known, usual.text)}, as this one has"
        return Testimony(Witness.HABIT, False, statement, _laplace(usual.n_own, usual.n_stating), text or "")
    return _against(usual, text, habit)


# ---------------------------------------------------------------- one series against the others


def deviations(own: StatedProtocol, habit: Habit) -> Iterator[Finding]:
    """Elements in which a series departs from the habit, one by one or, where they belong together, as one finding."""
    population = habit.population
    if population is None or habit.n_series < habit.config.min_series:
        return
    values = dict(own.values)
    departing: list[tuple[Usual, str]] = []
    missing: list[Usual] = []
    classes: dict[str, int | None] = {}
    for element in ELEMENTS:
        if element.role is Role.STUDY:
            continue
        text = values.get(element.keyword)
        index = classes[element.keyword] = class_of(element, text, habit)
        if is_adapted(element, own, habit):
            if text is not None:
                yield from _out_of_proportion(element, text, habit)
            continue
        usual = usual_of(element, index, habit)
        if usual is None or not usual.speaks:
            continue
        if text is None:
            if usual.n_stating >= NEARLY_ALL * habit.n_series:
                missing.append(usual)
        elif not usual.is_own:
            departing.append((usual, text))
    for usual, text in departing:
        if not usual.element.divides and not usual.n_own:
            yield _deviation(usual, text, habit)
    departing = [(usual, text) for usual, text in departing if usual.element.divides]
    variant = known_variant(population.key(classes), values, habit) if departing else None
    if variant is not None and len(departing) > 1:
        yield _as_variant(variant, departing, habit)
    elif len(departing) > MOST_DEVIATIONS:
        yield _as_another_protocol(departing, missing, habit)
        return
    else:
        for usual, text in departing:
            if not usual.is_practice:
                yield _deviation(usual, text, habit, variant)
    if len(missing) <= MOST_MISSING:
        for usual in missing:
            yield _left_out(usual, habit)
    elif variant is None or len(departing) <= 1:
        yield _many_left_out(missing, habit)


# ---------------------------------------------------------------- what people adapt


def _span(element: ProtocolElement, low: float, high: float) -> str:
    unit = f" {element.parameter.unit}" if element.parameter.unit else ""
    return f"{low:g}{unit}" if low == high else f"{low:g} to {high:g}{unit}"


def _out_of_proportion(element: ProtocolElement, text: str, habit: Habit) -> Iterator[Finding]:
    """A number that is adapted to the patient, but to no patient ever seen."""
    found = others_range(element, habit)
    if found is None or element.keyword == "NumberOfSlices" or not is_out_of_proportion(element, text, *found, habit):
        return
    statement = f"{_all_of(habit)} have {_span(element, *found)}, which is adapted to the patient"
    testimony = Testimony(Witness.HABIT, True, statement, _laplace(0, habit.n_series))
    yield _finding(element, text, statement, None, Severity.NOTE, testimony)


def _range_testimony(element: ProtocolElement, text: str | None, habit: Habit) -> Testimony | None:
    found = others_range(element, habit)
    if found is None or text is None:
        return None
    statement = f"{_all_of(habit)} have {_span(element, *found)}, which is adapted to the patient"
    return Testimony(Witness.HABIT, is_out_of_proportion(element, text, *found, habit), statement)


# ---------------------------------------------------------------- sentences


def _since(habit: Habit) -> str:
    since = None if habit.population is None else habit.population.since
    return "" if since is None else f" since {since:%Y-%m}"


def _counted(n: int, of: int, habit: Habit) -> str:
    return f"{n} of {of} series of this protocol on this scanner{_since(habit)} have"


def _all_of(habit: Habit) -> str:
    return f"the {habit.n_series} other series of this protocol on this scanner{_since(habit)}"


def _laplace(n: int, of: int) -> float:
    return (n + 1) / (of + 2)


def _shown(element: ProtocolElement, text: str) -> str:
    return shown(element.text(text)) if element.parameter.nature is not Nature.TEXT else f"'{shown(text)}'"


def _against(usual: Usual, text: str | None, habit: Habit, variant: int | None = None) -> Testimony:
    statement = f"{_counted(usual.n_same, usual.n_stating, habit)} {_shown(usual.element, usual.text)}"
    if variant is not None:
        statement += f"; it is variant {_name_of(variant, habit)}"
    elif usual.n_own:
        statement += f", {usual.n_own} this one's"
    probability = None if text is None else _laplace(usual.n_own, usual.n_stating)
    return Testimony(Witness.HABIT, True, statement, probability, _to_write(usual, text))


def _to_write(usual: Usual, text: str | None) -> str:
    """The usual value as it would be written into this header; "" where nobody can tell from the habit.

    Which of several echo times is an image's own, no habit knows; nor a frequency that is measured each time. The steps
    in phase stay the patient's.
    """
    element = usual.element
    if element.parameter.nature is Nature.MATRIX:
        steps = [one.partition("x") for one in (usual.text, text or "")]
        return f"{steps[0][0]}x{steps[1][2]}" if steps[1][2] else ""
    several = element.form is Form.SEVERAL and "\\" in f"{usual.text}{text or ''}"
    return "" if several or not usual.is_exact else usual.text


def _name_of(group: int, habit: Habit) -> str:
    return f"{group + 1} of this protocol ({habit.group_size(group)} other series)"


def _finding(
    element: ProtocolElement, text: str, statement: str, suggested: str | None, severity: Severity, testimony: Testimony
) -> Finding:
    parameter = element.parameter
    named = parameter.title if element.keyword == "FieldOfView" else title(element.tag)
    stated = f"is {_shown(element, text)}" if text else "has no single value"
    return Finding(
        element=parameter.element,
        check=DEVIATES,
        kind=FindingKind.DEVIATION,
        severity=severity,
        evidence=f"{named} {stated}; {statement}",
        raw=text[:RAW_TEXT_LIMIT],
        suggested_value=suggested[:RAW_TEXT_LIMIT] if suggested else None,
        raised_by=Witness.HABIT,
        testimonies=(testimony,),
    )


def _deviation(usual: Usual, text: str, habit: Habit, variant: int | None = None) -> Finding:
    is_grave = usual.element.weighs and not usual.n_own and usual.share >= NEARLY_ALL
    testimony = _against(usual, text, habit, variant)
    severity = Severity.WARNING if is_grave else Severity.NOTE
    return _finding(usual.element, text, testimony.statement, testimony.value, severity, testimony)


def _left_out(usual: Usual, habit: Habit) -> Finding:
    testimony = _against(usual, None, habit)
    return _finding(usual.element, "", testimony.statement, testimony.value, Severity.NOTE, testimony)


def _whole(evidence: str, severity: Severity, probability: float | None) -> Finding:
    return Finding(
        element=WHOLE_HEADER,
        check=DEVIATES,
        kind=FindingKind.DEVIATION,
        severity=severity,
        evidence=evidence,
        raw="",
        suggested_value=None,
        raised_by=Witness.HABIT,
        testimonies=(Testimony(Witness.HABIT, True, evidence, probability),),
    )


def _list(parts: Sequence[str]) -> str:
    more = f" and {len(parts) - MOST_SHOWN} more" if len(parts) > MOST_SHOWN else ""
    return ", ".join(parts[:MOST_SHOWN]) + more


def _compared(departing: Sequence[tuple[Usual, str]]) -> str:
    named = [(usual.element, usual.element.parameter.title, text, usual.text) for usual, text in departing]
    return _list([f"{name} {_shown(one, here)} (usually {_shown(one, there)})" for one, name, here, there in named])


def _as_variant(variant: int, departing: Sequence[tuple[Usual, str]], habit: Habit) -> Finding:
    n, reference = habit.group_size(variant), habit.group_size(habit.left_out.reference)
    evidence = (
        f"It is variant {_name_of(variant, habit)} on this scanner{_since(habit)}; the dominant group has {reference}. "
        f"They differ in {_compared(departing)}"
    )
    return _whole(evidence, Severity.NOTE, _laplace(n, habit.n_series))


def _as_another_protocol(
    departing: Sequence[tuple[Usual, str]], missing: Sequence[Usual], habit: Habit
) -> Finding:
    left_out = f"; {len(missing)} elements that they state are missing" if missing else ""
    evidence = (
        f"It differs in {len(departing)} elements from {_all_of(habit)}: {_compared(departing)}{left_out}. It is "
        "another protocol under this name, or another series' header"
    )
    return _whole(evidence, Severity.WARNING, _laplace(0, habit.n_series))


def _many_left_out(missing: Sequence[Usual], habit: Habit) -> Finding:
    names = _list([usual.element.parameter.title for usual in missing])
    evidence = f"It states no single value of {names}, as {_all_of(habit)} do"
    return _whole(evidence, Severity.NOTE, None)
