"""What is usual: the reference of a scanner's habit, the share of each element, and which variants are known.

Called by `habit`, which says it. The reference is the largest group of series that agree in all fixed elements: a
combination that was really used, no medley of each element's commonest value. An element has a habit where enough
series state it, from enough studies, and enough of them have the reference's value. Where values that nobody wrote
before are common the element varies freely and has none; where most of the series next in time have another value
somebody changed the protocol. The series of one study do not speak for each other: what was set wrong in one
examination is wrong in all its series, as mrQA's audit across subjects has it.

References
----------
Good 1953, Biometrika, doi 10.1093/biomet/40.3-4.237 (how often a new value comes: as often as values are seen once).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
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
MOST_OTHERS = 4  # values beside the usual one, where more than `NEW_VALUES` of the series have them
FEWEST_OF_PRACTICE, PRACTICE = 3, 0.02  # series, and their share, that make a value of one element nothing new here
_FARTHEST = 4  # times as many series as asked for are looked through for those next in time
FEWEST_STATING = 0.5  # of the series: a majority that leaves an element out makes no reference


@dataclass(frozen=True, slots=True)
class LeftOut:
    """The series of one study, of which none speaks for the others; made once for all of them."""

    places: frozenset[int] = frozenset()
    classes: Mapping[str, Counter[int]] = field(default_factory=dict)  # by keyword: how many of each class
    numbers: Mapping[str, Counter[float]] = field(default_factory=dict)
    groups: Counter[int] = field(default_factory=Counter)
    reference: int = 0  # the largest group without them


@dataclass(frozen=True, slots=True)
class Habit:
    """What series of other studies show, with the same device, software and protocol."""

    population: Population | None  # None: no series with this software
    own: int | None  # place of the series itself; None: it is not in the population
    config: HabitConfig
    vocabulary: Vocabulary
    before: tuple[PastSeries, ...] = ()  # earlier ones of other software, where none has this one's; newest first
    left_out: LeftOut = field(default_factory=LeftOut)

    @property
    def n_series(self) -> int:
        """Series that it is made of."""
        return 0 if self.population is None else len(self.population.series) - len(self.left_out.places)

    def group_size(self, group: int) -> int:
        """Series of a group that are not left out."""
        assert self.population is not None
        return len(self.population.groups[group][1]) - self.left_out.groups[group]


@dataclass(frozen=True, slots=True)
class Usual:
    """What is usual of one element, the study of the series left out."""

    element: ProtocolElement
    text: str
    is_exact: bool  # most of those who have it write it so: it is no measurement within a tolerance
    n_same: int  # series with this value
    n_stating: int
    n_own: int  # with the value that the series itself states
    is_own: bool  # the series itself has it
    speaks: bool

    @property
    def share(self) -> float:
        return self.n_same / self.n_stating

    @property
    def is_practice(self) -> bool:
        """Whether the series' own value is unusual, but nothing new in other examinations."""
        return self.n_own >= FEWEST_OF_PRACTICE and self.n_own >= PRACTICE * self.n_stating


def learn_habit(
    own: StatedProtocol, history: Sequence[PastSeries], config: HabitConfig, vocabulary: Vocabulary, study: str = ""
) -> Habit:
    """The habit that earlier series of the same device and protocol show.

    Parameters
    ----------
    history
        Without the series itself, the newest first: `database.protocols.history`.
    study
        The study of the series, whose other series are left out.
    """
    same = [one for one in history if one.protocol.software_versions == own.software_versions]
    others = [one for one in same if one.study != study]
    population = populate(others, config.tolerances, vocabulary) if others and own.protocol else None
    before = () if same else tuple(one for one in history if one.protocol.software_versions)
    return Habit(population, None, config, vocabulary, before)


def leave_out(population: Population, places: Collection[int]) -> LeftOut:
    """Series of a population, those of one study, that are compared with the rest of it."""
    groups = Counter(population.group_of[place] for place in places)
    reference, largest = 0, -1
    for group, (_, members) in enumerate(population.groups):
        if len(members) <= largest:
            break
        if len(members) - groups[group] > largest:
            reference, largest = group, len(members) - groups[group]
    return LeftOut(
        frozenset(places),
        {
            keyword: Counter(index for place in places if (index := one.of[place]) is not None)
            for keyword, one in population.classes.items()
        },
        {
            keyword: Counter(number for place in places if (number := one.number_of[place]) is not None)
            for keyword, one in population.classes.items()
            if one.numbers
        },
        groups,
        reference,
    )


# ---------------------------------------------------------------- one element, the study of the series left out


def class_of(element: ProtocolElement, text: str | None, habit: Habit) -> int | None:
    """The class of a series' own value; None where it states none, or one that no other has."""
    if text is None or habit.population is None:
        return None
    classes = habit.population.classes[element.keyword]
    if habit.own is not None:
        return classes.of[habit.own]
    return classes.place(meaning_of(element, text, habit.vocabulary))


def usual_of(element: ProtocolElement, own_class: int | None, habit: Habit) -> Usual | None:
    """What is usual of an element; None where the reference does not state it, or it varies freely."""
    population = habit.population
    if population is None or element.keyword in population.free:
        return None
    classes = population.classes[element.keyword]
    left_out: Counter[int] = habit.left_out.classes.get(element.keyword, Counter())
    reference = habit.left_out.reference
    if element.keyword in population.dividing:
        usual = population.groups[reference][0][population.dividing.index(element.keyword)]
    else:  # the commonest value, whatever the variant
        usual = 0 if classes.sizes else None
    if usual is None:
        return None
    n_stating = classes.n_stating - left_out.total()
    n_same = classes.sizes[usual] - left_out[usual]
    if not n_same:
        return None
    n_own = 0 if own_class is None else classes.sizes[own_class] - left_out[own_class]
    config = habit.config
    speaks = (
        n_stating >= max(config.min_series, FEWEST_STATING * habit.n_series)
        and n_same >= config.share * n_stating
        and _n_single(classes, left_out) <= max(1.0, NEW_VALUES * n_stating)
        and (n_stating - n_same <= NEW_VALUES * n_stating or _n_others(classes, usual, left_out) <= MOST_OTHERS)
        and _n_studies(reference, habit) >= FEWEST_STUDIES
        and (own_class == usual or _is_usual_nearby(classes, usual, habit))
    )
    is_exact = 2 * classes.n_written[usual] >= classes.sizes[usual]
    return Usual(element, classes.texts[usual], is_exact, n_same, n_stating, n_own, own_class == usual, speaks)


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
        around = range(max(0, rank - _FARTHEST * n), min(len(order), rank + _FARTHEST * n))
        others = [other for other in around if order[other] not in habit.left_out.places]
        nearby = tuple(order[other] for other in sorted(others, key=lambda other: abs(other - rank))[:n])
    else:
        nearby = ()
    stated = [classes.of[place] for place in nearby if classes.of[place] is not None]
    return not stated or 2 * stated.count(usual) >= len(stated)


def _n_single(classes: Classes, left_out: Counter[int]) -> int:
    """Series with a value that no other has."""
    n_single = classes.n_single
    for index, n in left_out.items():
        n_single += (classes.sizes[index] - n == 1) - (classes.sizes[index] == 1)
    return n_single


def _n_others(classes: Classes, usual: int, left_out: Counter[int]) -> int:
    """Values beside the usual one."""
    gone = sum(classes.sizes[index] == n for index, n in left_out.items() if index != usual)
    return len(classes.sizes) - 1 - gone


def _n_studies(group: int, habit: Habit) -> int:
    assert habit.population is not None
    return len(habit.population.studies[group]) - (habit.left_out.groups[group] > 0)


def known_variant(key: Key, values: Mapping[str, str], habit: Habit) -> int | None:
    """The group, other than the reference, to which a series belongs with all that it states."""
    population = habit.population
    assert population is not None
    reference = habit.left_out.reference
    if habit.own is not None:
        own = population.group_of[habit.own]
        return own if own != reference and habit.group_size(own) >= FEWEST_OF_VARIANT else None
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


def others_range(element: ProtocolElement, habit: Habit) -> tuple[float, float] | None:
    """Smallest and largest number that the others state; None where they are too few, or no single numbers."""
    population = habit.population
    if population is None or element.parameter.nature is not Nature.NUMBER:
        return None
    classes = population.classes[element.keyword]
    left_out: Counter[float] = habit.left_out.numbers.get(element.keyword, Counter())
    low = next((number for number, n in classes.numbers if n > left_out[number]), None)
    high = next((number for number, n in reversed(classes.numbers) if n > left_out[number]), None)
    n_stating = classes.n_stating - habit.left_out.classes.get(element.keyword, Counter()).total()
    if low is None or high is None or n_stating < max(habit.config.min_series, FEWEST_STATING * habit.n_series):
        return None
    return low, high


def is_out_of_proportion(element: ProtocolElement, text: str, low: float, high: float, habit: Habit) -> bool:
    meaning = meaning_of(element, text, habit.vocabulary)
    if isinstance(meaning, str) or len(meaning) != 1 or low <= 0:
        return False
    return not low / ADAPTED_FACTOR <= meaning[0] <= high * ADAPTED_FACTOR
