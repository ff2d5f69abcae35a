"""The scanner's habit as a witness: what this device with this software usually writes for this protocol.

Called by the worker for one series against the archive, and by the audit of a folder for each against the others::

    vocabulary = learn_vocabulary(load_vocabulary(config.vocabulary), device_spellings(session), scan_options(session))
    own = stated_protocol(instances, vocabulary)
    habit = learn_habit(own, history(session, own, series_id, config.series), config, vocabulary)
    found = habit_findings(own, habit, of_study(session, series_id))
    habit_testimony("EchoTime", own, habit)     # for or against what another witness found

The reference is the largest group of series that agree in all fixed elements: a combination that was really used, no
medley of each element's commonest value. An element has a habit where enough series state it, from enough studies, and
enough of them have the reference's value; where values that nobody wrote before are common the element varies freely
and has none.

References
----------
Good 1953, Biometrika, doi 10.1093/biomet/40.3-4.237 (how often a new value comes: as often as values are seen once).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from iap_node.audit.checks.check import RAW_TEXT_LIMIT, shown, title
from iap_node.audit.groups import Classes, Key, Population, meaning_of, populate
from iap_node.audit.protocol import stated_protocol
from iap_node.audit.study import STUDY, study_findings
from iap_node.audit.vocabulary import Vocabulary
from iap_node.dicom.parameters import Nature
from iap_node.dicom.protocol import ADAPTED_FACTOR, ELEMENTS, ProtocolElement, Role
from iap_node.records import Finding, FindingKind, PastSeries, Severity, StatedProtocol, Testimony, Witness

if TYPE_CHECKING:  # the audit of a folder reads files in processes that need no configuration
    from iap_node.config import HabitConfig

__all__ = [
    "DEVIATES", "SOFTWARE_CHANGED", "STUDY", "Habit", "habit_findings", "habit_testimony", "learn_habit",
    "software_finding", "stated_protocol", "study_findings",
]  # fmt: skip

DEVIATES, SOFTWARE_CHANGED = "habit-deviates", "habit-software-changed"
WHOLE_HEADER = "SeriesInstanceUID"

FEWEST_STUDIES = 3  # that the reference comes from: repetitions within one examination are no habit
FEWEST_OF_VARIANT = 2  # series, before a group counts as a variant that is known
NEW_VALUES = 0.05  # of the series that have a value of their own: above, the element varies freely
FEWEST_STATING = 0.5  # of the series: a majority that leaves an element out makes no reference
NEARLY_ALL = 0.95  # of the series, before a value that none of them has is a warning, or a missing one is told
MOST_DEVIATIONS = 4  # told one by one: a series that differs in more is another protocol under this name
MOST_MISSING = 2  # told one by one: who leaves out more was made anonymous, or exported otherwise
MOST_SHOWN = 6  # elements in one sentence

_OF_FINDING = {element.parameter.element: element for element in ELEMENTS if element.role is not Role.STUDY}


@dataclass(frozen=True, slots=True)
class Habit:
    """What other series of the same device, software and protocol show; those of other software apart."""

    population: Population | None  # None: no series with this software
    own: int | None  # place of the series itself, to be left out; None: it is not among them
    config: HabitConfig
    vocabulary: Vocabulary
    before: tuple[PastSeries, ...] = ()  # of other software, and earlier

    @property
    def n_series(self) -> int:
        """Series that it is made of."""
        return 0 if self.population is None else len(self.population.series) - (self.own is not None)


@dataclass(frozen=True, slots=True)
class _Usual:
    """What is usual of one element, the series itself left out."""

    element: ProtocolElement
    text: str
    n_same: int  # series with this value
    n_stating: int
    n_own: int  # with the value that the series itself states
    is_own: bool  # the series itself has it
    speaks: bool

    @property
    def share(self) -> float:
        return self.n_same / self.n_stating


def learn_habit(
    own: StatedProtocol, history: Sequence[PastSeries], config: HabitConfig, vocabulary: Vocabulary
) -> Habit:
    """The habit that earlier series of the same device and protocol show.

    Parameters
    ----------
    history
        Without the series itself: `database.protocols.history`.
    """
    same = [one for one in history if one.protocol.software_versions == own.software_versions]
    before = [one for one in history if one.protocol.software_versions not in ("", own.software_versions)]
    population = populate(same, config.tolerances, vocabulary) if same and own.protocol else None
    return Habit(population, None, config, vocabulary, tuple(before) if own.protocol else ())


def habit_findings(own: StatedProtocol, habit: Habit, study: Sequence[PastSeries] = ()) -> tuple[Finding, ...]:
    """What the scanner's habit, and the other series of its study, have against the header of a series.

    Parameters
    ----------
    study
        The other series of the study: `database.protocols.of_study`.
    """
    changed = software_finding(own, habit)
    found = [*deviations(own, habit), *([changed] if changed else [])]
    if study:
        found += study_findings([own, *(one.protocol for one in study)], habit.vocabulary)[0]
    return tuple(found)


def software_finding(own: StatedProtocol, habit: Habit) -> Finding | None:
    """That the device has another software than in all earlier series of this protocol; told of the first one only."""
    before = habit.before
    if habit.n_series or not own.software_versions or len(before) < habit.config.min_series:
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
    index = _class(known, text, habit)
    if _is_adapted(known, own, habit):
        return _range_testimony(known, text, habit)
    usual = _usual(known, index, habit)
    if usual is None or not usual.speaks:
        return None
    if usual.is_own:
        statement = f"{_counted(usual.n_same, usual.n_stating, habit)} this value"
        return Testimony(Witness.HABIT, False, statement, _laplace(usual.n_own, usual.n_stating), usual.text)
    return _against(usual, text, habit)


# ---------------------------------------------------------------- one series against the others


def deviations(own: StatedProtocol, habit: Habit) -> Iterator[Finding]:
    """Elements in which a series departs from the habit, one by one or, where they belong together, as one finding."""
    population = habit.population
    if population is None or habit.n_series < habit.config.min_series:
        return
    values = dict(own.values)
    departing: list[tuple[_Usual, str]] = []
    missing: list[_Usual] = []
    classes: dict[str, int | None] = {}
    for element in ELEMENTS:
        if element.role is Role.STUDY:
            continue
        text = values.get(element.keyword)
        index = classes[element.keyword] = _class(element, text, habit)
        if _is_adapted(element, own, habit):
            if text is not None:
                yield from _out_of_proportion(element, text, habit)
            continue
        usual = _usual(element, index, habit)
        if usual is None or not usual.speaks:
            continue
        if text is None:
            if usual.n_stating >= NEARLY_ALL * habit.n_series:
                missing.append(usual)
        elif not usual.is_own:
            departing.append((usual, text))
    for usual, text in departing:
        if not usual.element.divides:
            yield _deviation(usual, text, habit)
    departing = [(usual, text) for usual, text in departing if usual.element.divides]
    variant = _known_variant(population.key(classes), values, habit) if departing else None
    if variant is not None and len(departing) > 1:
        yield _as_variant(variant, departing, habit)
    elif len(departing) > MOST_DEVIATIONS:
        yield _as_another_protocol(departing, missing, habit)
        return
    else:
        for usual, text in departing:
            yield _deviation(usual, text, habit, variant)
    if len(missing) <= MOST_MISSING:
        for usual in missing:
            yield _left_out(usual, habit)
    elif variant is None or len(departing) <= 1:
        yield _many_left_out(missing, habit)


def _class(element: ProtocolElement, text: str | None, habit: Habit) -> int | None:
    """The class of a series' own value; None where it states none, or one that no other has."""
    if text is None or habit.population is None:
        return None
    classes = habit.population.classes[element.keyword]
    if habit.own is not None:
        return classes.of[habit.own]
    return classes.place(meaning_of(element, text, habit.vocabulary))


def _reference(habit: Habit) -> int:
    """The largest group, the series itself left out."""
    population = habit.population
    assert population is not None
    if habit.own is None or len(population.groups) == 1 or population.group_of[habit.own] != 0:
        return 0
    return 0 if len(population.groups[0][1]) - 1 >= len(population.groups[1][1]) else 1


def _usual(element: ProtocolElement, own_class: int | None, habit: Habit) -> _Usual | None:
    """What is usual of an element; None where the reference does not state it, or it varies freely."""
    population = habit.population
    if population is None or element.keyword in population.free:
        return None
    classes = population.classes[element.keyword]
    reference = _reference(habit)
    if element.keyword in population.dividing:
        usual = population.groups[reference][0][population.dividing.index(element.keyword)]
    else:  # the commonest value, whatever the variant
        usual = 0 if classes.sizes else None
    if usual is None:
        return None
    mine = None if habit.own is None else classes.of[habit.own]
    n_stating = classes.n_stating - (mine is not None)
    n_same = classes.sizes[usual] - (mine == usual)
    if not n_same:
        return None
    n_own = 0 if own_class is None else classes.sizes[own_class] - (mine is not None)
    config = habit.config
    speaks = (
        n_stating >= max(config.min_series, FEWEST_STATING * habit.n_series)
        and n_same >= config.share * n_stating
        and _n_single(classes, mine) <= max(1.0, NEW_VALUES * n_stating)
        and _n_studies(reference, habit) >= FEWEST_STUDIES
    )
    return _Usual(element, classes.texts[usual], n_same, n_stating, n_own, own_class == usual, speaks)


def _n_single(classes: Classes, mine: int | None) -> int:
    """Series with a value that no other has, the series itself left out."""
    size = 0 if mine is None else classes.sizes[mine]
    return classes.n_single + {1: -1, 2: 1}.get(size, 0)


def _n_studies(group: int, habit: Habit) -> int:
    population = habit.population
    assert population is not None
    studies = population.studies[group]
    if habit.own is None or population.group_of[habit.own] != group:
        return len(studies)
    return len(studies) - (studies[population.series[habit.own].study] == 1)


def _known_variant(key: Key, values: Mapping[str, str], habit: Habit) -> int | None:
    """The group, other than the reference, to which a series belongs with all that it states."""
    population = habit.population
    assert population is not None
    reference = _reference(habit)
    if habit.own is not None:
        own = population.group_of[habit.own]
        is_known = own != reference and len(population.groups[own][1]) - 1 >= FEWEST_OF_VARIANT
        return own if is_known else None
    for index, (other, places) in enumerate(population.groups):
        if index == reference or len(places) < FEWEST_OF_VARIANT:
            continue
        if all(
            here == there or there is None or keyword not in values
            for keyword, here, there in zip(population.dividing, key, other, strict=True)
        ):
            return index
    return None


# ---------------------------------------------------------------- what people adapt


def _is_adapted(element: ProtocolElement, own: StatedProtocol, habit: Habit) -> bool:
    """Whether people, or the number of slices, set this element for this series."""
    if element.role is Role.ADAPTED:
        return True
    if element.keyword != "RepetitionTime" or habit.population is None:
        return False
    values = dict(own.values)
    if values.get("MRAcquisitionType", "").upper() == "3D":
        return False
    slices = habit.population.classes["NumberOfSlices"]
    usual = slices.meanings[0] if slices.meanings else ()
    own_slices = meaning_of(slices.element, values.get("NumberOfSlices", ""), habit.vocabulary)
    return not slices.element.same(own_slices, usual)


def _others_range(element: ProtocolElement, text: str | None, habit: Habit) -> tuple[float, float] | None:
    """Smallest and largest number that the others state; None where they are too few, or no single numbers."""
    population = habit.population
    if population is None or element.parameter.nature is not Nature.NUMBER:
        return None
    classes = population.classes[element.keyword]
    mine = None if habit.own is None else classes.of[habit.own]
    numbers = classes.numbers
    if mine is not None and classes.sizes[mine] == 1 and text is not None:
        meaning = classes.meanings[mine]
        if numbers and meaning in ((numbers[0],), (numbers[-1],)):
            numbers = numbers[1:] if meaning == (numbers[0],) else numbers[:-1]
    n_stating = classes.n_stating - (mine is not None)
    if not numbers or n_stating < max(habit.config.min_series, FEWEST_STATING * habit.n_series):
        return None
    return numbers[0], numbers[-1]


def _span(element: ProtocolElement, low: float, high: float) -> str:
    unit = f" {element.parameter.unit}" if element.parameter.unit else ""
    return f"{low:g}{unit}" if low == high else f"{low:g} to {high:g}{unit}"


def _is_out_of_proportion(element: ProtocolElement, text: str, low: float, high: float, habit: Habit) -> bool:
    meaning = meaning_of(element, text, habit.vocabulary)
    if isinstance(meaning, str) or len(meaning) != 1 or low <= 0:
        return False
    return not low / ADAPTED_FACTOR <= meaning[0] <= high * ADAPTED_FACTOR


def _out_of_proportion(element: ProtocolElement, text: str, habit: Habit) -> Iterator[Finding]:
    """A number that is adapted to the patient, but to no patient ever seen."""
    found = _others_range(element, text, habit)
    if found is None or element.keyword == "NumberOfSlices" or not _is_out_of_proportion(element, text, *found, habit):
        return
    statement = f"{_all_of(habit)} have {_span(element, *found)}, which is adapted to the patient"
    testimony = Testimony(Witness.HABIT, True, statement, _laplace(0, habit.n_series))
    yield _finding(element, text, statement, None, Severity.NOTE, testimony)


def _range_testimony(element: ProtocolElement, text: str | None, habit: Habit) -> Testimony | None:
    found = _others_range(element, text, habit)
    if found is None or text is None:
        return None
    statement = f"{_all_of(habit)} have {_span(element, *found)}, which is adapted to the patient"
    return Testimony(Witness.HABIT, _is_out_of_proportion(element, text, *found, habit), statement)


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


def _against(usual: _Usual, text: str | None, habit: Habit, variant: int | None = None) -> Testimony:
    statement = f"{_counted(usual.n_same, usual.n_stating, habit)} {_shown(usual.element, usual.text)}"
    if variant is not None:
        statement += f"; it is variant {_name_of(variant, habit)}"
    elif usual.n_own:
        statement += f", {usual.n_own} this one's"
    probability = None if text is None else _laplace(usual.n_own, usual.n_stating)
    return Testimony(Witness.HABIT, True, statement, probability, usual.text)


def _name_of(group: int, habit: Habit) -> str:
    population = habit.population
    assert population is not None
    n = len(population.groups[group][1]) - (habit.own is not None and population.group_of[habit.own] == group)
    return f"{group + 1} of this protocol ({n} series)"


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


def _deviation(usual: _Usual, text: str, habit: Habit, variant: int | None = None) -> Finding:
    is_grave = usual.element.weighs and not usual.n_own and usual.share >= NEARLY_ALL
    testimony = _against(usual, text, habit, variant)
    severity = Severity.WARNING if is_grave else Severity.NOTE
    return _finding(usual.element, text, testimony.statement, usual.text, severity, testimony)


def _left_out(usual: _Usual, habit: Habit) -> Finding:
    testimony = _against(usual, None, habit)
    return _finding(usual.element, "", testimony.statement, usual.text, Severity.NOTE, testimony)


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


def _compared(departing: Sequence[tuple[_Usual, str]]) -> str:
    named = [(usual.element, usual.element.parameter.title, text, usual.text) for usual, text in departing]
    return _list([f"{name} {_shown(one, here)} (usually {_shown(one, there)})" for one, name, here, there in named])


def _as_variant(variant: int, departing: Sequence[tuple[_Usual, str]], habit: Habit) -> Finding:
    population = habit.population
    assert population is not None
    n = len(population.groups[variant][1]) - (habit.own is not None)
    reference = len(population.groups[_reference(habit)][1])
    evidence = (
        f"it is variant {_name_of(variant, habit)} on this scanner{_since(habit)}; the dominant group has {reference}. "
        f"They differ in {_compared(departing)}"
    )
    return _whole(evidence, Severity.NOTE, _laplace(n, habit.n_series))


def _as_another_protocol(
    departing: Sequence[tuple[_Usual, str]], missing: Sequence[_Usual], habit: Habit
) -> Finding:
    left_out = f"; {len(missing)} elements that they state are missing" if missing else ""
    evidence = (
        f"it differs in {len(departing)} elements from {_all_of(habit)}: {_compared(departing)}{left_out}. It is "
        "another protocol under this name, or another series' header"
    )
    return _whole(evidence, Severity.WARNING, _laplace(0, habit.n_series))


def _many_left_out(missing: Sequence[_Usual], habit: Habit) -> Finding:
    names = _list([usual.element.parameter.title for usual in missing])
    evidence = f"it states no single value of {names}, as {_all_of(habit)} do"
    return _whole(evidence, Severity.NOTE, None)
