"""What is usual: the reference of a scanner's habit, the share of each element, and which variants are known.

Called by `habit`, which says it. The reference is the largest group of series that agree in all fixed elements: a
combination that was really used, no medley of each element's commonest value. An element has a habit where enough
series state it, from enough studies, and enough of them have the reference's value. Where values that nobody wrote
before are common the element varies freely and has none; where most of the series next in time have another value
somebody changed the protocol. A series that is part of the population is left out.

References
----------
Good 1953, Biometrika, doi 10.1093/biomet/40.3-4.237 (how often a new value comes: as often as values are seen once).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from iap_node.audit.groups import Classes, Key, Population, meaning_of, populate
from iap_node.audit.vocabulary import Vocabulary
from iap_node.dicom.parameters import Nature
from iap_node.dicom.protocol import ADAPTED_FACTOR, ProtocolElement, Role
from iap_node.records import PastSeries, StatedProtocol

if TYPE_CHECKING:  # the audit of a folder reads files in processes that need no configuration
    from iap_node.config import HabitConfig

FEWEST_STUDIES = 3  # that the reference comes from: repetitions within one examination are no habit
FEWEST_OF_VARIANT = 2  # series, before a group counts as a variant that is known
NEW_VALUES = 0.05  # of the series that have a value of their own: above, the element varies freely
FEWEST_STATING = 0.5  # of the series: a majority that leaves an element out makes no reference


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
class Usual:
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


# ---------------------------------------------------------------- one element, the series itself left out


def class_of(element: ProtocolElement, text: str | None, habit: Habit) -> int | None:
    """The class of a series' own value; None where it states none, or one that no other has."""
    if text is None or habit.population is None:
        return None
    classes = habit.population.classes[element.keyword]
    if habit.own is not None:
        return classes.of[habit.own]
    return classes.place(meaning_of(element, text, habit.vocabulary))


def reference_of(habit: Habit) -> int:
    """The largest group, the series itself left out."""
    population = habit.population
    assert population is not None
    if habit.own is None or len(population.groups) == 1 or population.group_of[habit.own] != 0:
        return 0
    return 0 if len(population.groups[0][1]) - 1 >= len(population.groups[1][1]) else 1


def usual_of(element: ProtocolElement, own_class: int | None, habit: Habit) -> Usual | None:
    """What is usual of an element; None where the reference does not state it, or it varies freely."""
    population = habit.population
    if population is None or element.keyword in population.free:
        return None
    classes = population.classes[element.keyword]
    reference = reference_of(habit)
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
        and (own_class == usual or _is_usual_nearby(classes, usual, habit))
    )
    return Usual(element, classes.texts[usual], n_same, n_stating, n_own, own_class == usual, speaks)


def _is_usual_nearby(classes: Classes, usual: int, habit: Habit) -> bool:
    """Whether the usual value is that of most series next in time too: somebody may have changed the protocol.

    The series that came last before it or, in the midst of others, as many before as after it.
    """
    population = habit.population
    assert population is not None
    order, n = population.in_time, habit.config.min_series
    if habit.own is None:
        nearby = order[-n:]
    elif order:
        rank = population.rank[habit.own]
        first = max(0, min(rank - n // 2, len(order) - n - 1))
        nearby = tuple(place for place in order[first : first + n + 1] if place != habit.own)
    else:
        nearby = ()
    stated = [classes.of[place] for place in nearby if classes.of[place] is not None]
    return not stated or 2 * stated.count(usual) >= len(stated)


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


def known_variant(key: Key, values: Mapping[str, str], habit: Habit) -> int | None:
    """The group, other than the reference, to which a series belongs with all that it states."""
    population = habit.population
    assert population is not None
    reference = reference_of(habit)
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


def is_adapted(element: ProtocolElement, own: StatedProtocol, habit: Habit) -> bool:
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


def others_range(element: ProtocolElement, text: str | None, habit: Habit) -> tuple[float, float] | None:
    """Smallest and largest number that the others state; None where they are too few, or no single numbers."""
    population = habit.population
    if population is None or element.parameter.nature is not Nature.NUMBER:
        return None
    classes = population.classes[element.keyword]
    mine = None if habit.own is None else classes.of[habit.own]
    numbers = classes.numbers
    if mine is not None and text is not None and len(numbers) > 1:
        own = meaning_of(element, text, habit.vocabulary)
        if own == (numbers[0],):
            numbers = numbers[1:]
        elif own == (numbers[-1],):
            numbers = numbers[:-1]
    n_stating = classes.n_stating - (mine is not None)
    if not numbers or n_stating < max(habit.config.min_series, FEWEST_STATING * habit.n_series):
        return None
    return numbers[0], numbers[-1]


def is_out_of_proportion(element: ProtocolElement, text: str, low: float, high: float, habit: Habit) -> bool:
    meaning = meaning_of(element, text, habit.vocabulary)
    if isinstance(meaning, str) or len(meaning) != 1 or low <= 0:
        return False
    return not low / ADAPTED_FACTOR <= meaning[0] <= high * ADAPTED_FACTOR
