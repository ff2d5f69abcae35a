"""Parameter groups of a protocol: the dominant one and its variants, as CuBIDS has them.

The series of one scanner, software and protocol fall into groups whose fixed elements are equal within tolerances. The
largest is dominant, others are variants of it. What people adapt to the patient, and what varies freely, divides no
groups; a series that leaves an element out stands in the largest group that it does not contradict. Called by `habit`
for one series against the archive, by the audit of a folder and by `iap-node protocols`.

References
----------
Covitz et al. 2022, NeuroImage, doi 10.1016/j.neuroimage.2022.119609 (CuBIDS: entity and parameter groups).
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from iap_node.audit.vocabulary import Vocabulary
from iap_node.dicom.protocol import ELEMENTS, FIXED, Meaning, ProtocolElement, Role
from iap_node.records import PastSeries, StatedProtocol

FEWEST_TO_BE_FREE = 10  # series that state an element, before it may be said to vary freely
MOST_PATTERNS = 64  # of what series of one protocol state and leave out, that are compared with each other
FREE_SHARE = 0.2  # of them with a value that no other has: then it divides no groups

MOST_VARIANTS = 10  # values of one element, where not one of them is in half of the series

Key = tuple[int | None, ...]  # class of each dividing element; None: not stated


@dataclass(frozen=True, slots=True)
class Difference:
    """One element in which a variant differs from the dominant group; canonical text without unit."""

    element: str  # DICOM keyword
    usual: str  # of the dominant group
    here: str  # of the variant


@dataclass(frozen=True, slots=True)
class ParameterGroup:
    """Series of one protocol with equal fixed elements."""

    rank: int  # 1: the dominant group
    n_series: int
    n_studies: int
    values: tuple[tuple[str, str], ...]  # DICOM keyword and commonest canonical text, of what divides groups
    differences: tuple[Difference, ...]  # from the dominant group; none for itself
    series: tuple[str, ...]  # `PastSeries.series` of its members
    since: datetime | None  # of its oldest member whose time is known
    until: datetime | None


@dataclass(frozen=True, slots=True)
class ProtocolGroups:
    """One protocol on one scanner with one software: its groups, the dominant one first."""

    manufacturer: str
    model: str
    serial_number: str
    software_versions: str
    protocol: str
    n_series: int
    groups: tuple[ParameterGroup, ...]
    free: tuple[str, ...]  # keywords of elements that vary from series to series: no habit, they divide no groups

    @property
    def dominant(self) -> ParameterGroup:
        return self.groups[0]

    @property
    def variants(self) -> tuple[ParameterGroup, ...]:
        return self.groups[1:]


# ---------------------------------------------------------------- classes of one element


@dataclass(frozen=True, slots=True)
class Classes:
    """The values of one element in many series, those that mean the same together, the commonest first."""

    element: ProtocolElement
    tolerance: float | None  # another than the element's own, in its unit
    meanings: tuple[Meaning, ...]  # of each class: its commonest value's
    texts: tuple[str, ...]  # of each class: as most often written
    n_written: tuple[int, ...]  # of each class: series with exactly that text
    sizes: tuple[int, ...]  # series in each class
    of: tuple[int | None, ...]  # class of each series; None: not stated
    n_stating: int  # series with a value
    n_single: int  # series with a value that no other has
    number_of: tuple[float | None, ...]  # of each series; None: not one single number
    numbers: tuple[tuple[float, int], ...]  # those numbers, rising, and in how many series

    def place(self, meaning: Meaning) -> int | None:
        """The class that a value belongs to: the commonest that means the same; None where there is none."""
        for index, other in enumerate(self.meanings):
            if self.element.same(meaning, other, self.tolerance):
                return index
        return None


def classify(
    element: ProtocolElement,
    stated: Sequence[str | None],
    tolerances: Mapping[str, float],
    vocabulary: Vocabulary,
) -> Classes:
    """Put the canonical texts of one element, one per series, into classes that mean the same.

    The commonest value takes all within its tolerance, then the commonest of the rest: no chain of near values joins
    what lies apart. Takes time in proportion to the number of series, but for the sorting of their distinct values.
    """
    tolerance = tolerances.get(element.keyword)
    written = Counter(text for text in stated if text is not None)
    by_meaning: defaultdict[Meaning, Counter[str]] = defaultdict(Counter)
    for text, n in written.items():
        by_meaning[meaning_of(element, text, vocabulary)][text] += n
    members = _members(element, {meaning: sum(texts.values()) for meaning, texts in by_meaning.items()}, tolerance)
    counted = [(sum((by_meaning[one] for one in alike), Counter[str]()), alike[0]) for alike in members]
    counted.sort(key=lambda one: (-one[0].total(), str(one[1])))
    place = {text: index for index, (texts, _) in enumerate(counted) for text in texts}
    sizes = tuple(texts.total() for texts, _ in counted)
    single = {
        text: meaning[0]
        for meaning, texts in by_meaning.items()
        if not isinstance(meaning, str) and len(meaning) == 1
        for text in texts
    }
    number_of = tuple(None if text is None else single.get(text) for text in stated)
    numbers = Counter(number for number in number_of if number is not None)
    commonest = [min(texts, key=lambda text: (-texts[text], text)) for texts, _ in counted]
    return Classes(
        element,
        tolerance,
        tuple(meaning for _, meaning in counted),
        tuple(commonest),
        tuple(texts[text] for text, (texts, _) in zip(commonest, counted, strict=True)),
        sizes,
        tuple(None if text is None else place[text] for text in stated),
        sum(sizes),
        sizes.count(1),
        number_of,
        tuple(sorted(numbers.items())),
    )


def meaning_of(element: ProtocolElement, text: str, vocabulary: Vocabulary) -> Meaning:
    """What of a canonical text is compared, in the site's vocabulary."""
    if element.keyword == "ManufacturerModelName":
        return vocabulary.model(text)
    if element.keyword == "Manufacturer":
        return vocabulary.manufacturer(text)
    return element.meaning(vocabulary.options(text) if element.keyword == "ScanOptions" else text)


def _members(element: ProtocolElement, counts: Mapping[Meaning, int], tolerance: float | None) -> list[list[Meaning]]:
    """Distinct meanings that are the same; the first of each stands for the others."""
    found: list[list[Meaning]] = [[meaning] for meaning in counts if isinstance(meaning, str)]
    numbers = sorted(meaning for meaning in counts if not isinstance(meaning, str) and meaning)
    firsts = [one[0] for one in numbers]
    left = set(numbers)
    for centre in sorted(numbers, key=lambda one: (-counts[one], one)):
        if centre not in left:
            continue
        alike: list[Meaning] = [centre]
        reach = (element.parameter.tolerance(centre[0]) if tolerance is None else tolerance) + 1e-9
        for index in range(bisect_left(firsts, centre[0] - reach), len(numbers)):
            other = numbers[index]
            if other[0] > centre[0] + reach:
                break
            if other != centre and other in left and element.same(other, centre, tolerance):
                alike.append(other)
        left.difference_update(alike)
        found.append(alike)
    return found


# ---------------------------------------------------------------- groups of one protocol


@dataclass(frozen=True, slots=True)
class Population:
    """Series of one scanner, software and protocol, side by side."""

    series: tuple[PastSeries, ...]
    classes: Mapping[str, Classes]  # by keyword; of all elements but the study's
    dividing: tuple[str, ...]  # keywords of what divides groups
    free: tuple[str, ...]
    groups: tuple[tuple[Key, tuple[int, ...]], ...]  # key and the places of members; the dominant group first
    group_of: tuple[int, ...]  # of each series
    studies: tuple[Mapping[str, int], ...]  # of each group: series of each study
    since: datetime | None  # of the oldest series whose time is known
    in_time: tuple[int, ...]  # places, the oldest first; empty where the time of one is not known
    rank: Mapping[int, int]  # of each place in that order

    def key(self, classes: Mapping[str, int | None]) -> Key:
        """The key of a series by its class of each element."""
        return tuple(classes.get(keyword) for keyword in self.dividing)


def populate(series: Sequence[PastSeries], tolerances: Mapping[str, float], vocabulary: Vocabulary) -> Population:
    """Compare series of one scanner, software and protocol with each other.

    Parameters
    ----------
    tolerances
        By DICOM keyword, in the element's unit: others than those of `dicom.protocol`.
    """
    stated = [dict(one.protocol.values) for one in series]
    classes = {
        element.keyword: classify(element, [values.get(element.keyword) for values in stated], tolerances, vocabulary)
        for element in ELEMENTS
        if element.role is not Role.STUDY
    }
    free = tuple(element.keyword for element in FIXED if _varies_freely(classes[element.keyword]))
    dividing = tuple(
        element.keyword
        for element in FIXED
        if element.divides and element.keyword not in free and classes[element.keyword].meanings
    )
    keys: list[Key] = list(zip(*(classes[keyword].of for keyword in dividing), strict=True)) or [()] * len(series)
    members = _groups(keys)
    times = [one.at.timestamp() if one.at is not None else float("inf") for one in series]
    in_time = sorted(range(len(series)), key=times.__getitem__) if float("inf") not in times else []
    groups = sorted(members.items(), key=lambda one: (-len(one[1]), min(times[place] for place in one[1]), one[1][0]))
    group_of = [0] * len(series)
    for index, (_, places) in enumerate(groups):
        for place in places:
            group_of[place] = index
    return Population(
        tuple(series),
        classes,
        dividing,
        free,
        tuple((key, tuple(places)) for key, places in groups),
        tuple(group_of),
        tuple(Counter(series[place].study for place in places) for _, places in groups),
        min((one.at for one in series if one.at is not None), default=None),
        tuple(in_time),
        {place: rank for rank, place in enumerate(in_time)},
    )


def _varies_freely(classes: Classes) -> bool:
    """Whether new values are common, or so many are usual that none of them is."""
    n_stating = classes.n_stating
    if n_stating < FEWEST_TO_BE_FREE:
        return False
    return classes.n_single > FREE_SHARE * n_stating or (
        len(classes.sizes) > MOST_VARIANTS and classes.sizes[0] < n_stating / 2
    )


def _groups(keys: Sequence[Key]) -> dict[Key, list[int]]:
    """The series of each group, by its key; a key with gaps joins the largest group that it does not contradict."""
    places: defaultdict[Key, list[int]] = defaultdict(list)
    for place, key in enumerate(keys):
        places[key].append(place)
    patterns: defaultdict[tuple[bool, ...], list[Key]] = defaultdict(list)
    for key in places:
        patterns[tuple(one is not None for one in key)].append(key)
    groups: dict[Key, list[int]] = {}
    for number, pattern in enumerate(sorted(patterns, key=lambda one: (-sum(one), one))):
        stated = [index for index, is_stated in enumerate(pattern) if is_stated]
        if number >= MOST_PATTERNS:  # no protocol: what is stated differs from series to series
            groups.update({key: places[key] for key in patterns[pattern]})
            continue
        largest: dict[Key, Key] = {}
        for key, members in groups.items():
            projected = tuple(key[index] for index in stated)
            if projected not in largest or len(members) > len(groups[largest[projected]]):
                largest[projected] = key
        joined: list[tuple[Key, Key]] = []
        for key in patterns[pattern]:
            group = largest.get(tuple(key[index] for index in stated))
            joined.append((key, key if group is None else group))
        for key, group in joined:
            groups.setdefault(group, []).extend(places[key])
    return {key: sorted(members) for key, members in groups.items()}


def describe(population: Population) -> ProtocolGroups:
    """The groups as people see them."""
    reference = population.groups[0][0]
    found = []
    for rank, (key, places) in enumerate(population.groups, start=1):
        members = [population.series[place] for place in places]
        times = [one.at for one in members if one.at is not None]
        found.append(
            ParameterGroup(
                rank=rank,
                n_series=len(members),
                n_studies=len({one.study for one in members}),
                values=tuple(
                    (keyword, population.classes[keyword].texts[index])
                    for keyword, index in zip(population.dividing, key, strict=True)
                    if index is not None
                ),
                differences=tuple(differences(population, reference, key)),
                series=tuple(one.series for one in members),
                since=min(times, default=None),
                until=max(times, default=None),
            )
        )
    protocols = [one.protocol for one in population.series]
    return ProtocolGroups(
        manufacturer=_written(protocols, "Manufacturer"),
        model=_written(protocols, "ManufacturerModelName"),
        serial_number=_written(protocols, "DeviceSerialNumber"),
        software_versions=_written(protocols, "SoftwareVersions"),
        protocol=protocols[0].protocol,
        n_series=len(protocols),
        groups=tuple(found),
        free=population.free,
    )


def differences(population: Population, reference: Key, key: Key) -> Iterable[Difference]:
    """Where a key differs from another, of what both state."""
    for keyword, usual, here in zip(population.dividing, reference, key, strict=True):
        if usual is not None and here is not None and usual != here:
            texts = population.classes[keyword].texts
            yield Difference(keyword, texts[usual], texts[here])


def _written(protocols: Sequence[StatedProtocol], keyword: str) -> str:
    """As most often written."""
    texts = Counter(text for one in protocols for name, text in one.values if name == keyword)
    return min(texts, key=lambda text: (-texts[text], text)) if texts else ""


def by_protocol(series: Iterable[PastSeries]) -> dict[tuple[str, str], list[PastSeries]]:
    """The series that are meant to be alike, by device and protocol; those of no protocol are left out."""
    found: defaultdict[tuple[str, str], list[PastSeries]] = defaultdict(list)
    for one in series:
        if one.protocol.protocol:
            found[one.protocol.device, one.protocol.protocol].append(one)
    return dict(found)


def by_software(series: Iterable[PastSeries]) -> dict[Hashable, list[PastSeries]]:
    """Series of one device and protocol by the software that they state."""
    found: defaultdict[Hashable, list[PastSeries]] = defaultdict(list)
    for one in series:
        found[one.protocol.software_versions].append(one)
    return dict(found)
