"""The habits that the series of a folder show: each series against all others, and against its study.

Called by `folder` when all series are read: the folder is its own archive. The study of a series is left out of what
the series is compared with, so that it cannot speak for itself; the population is made once per scanner, software and
protocol, and what is left out once per study.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from iap_node.audit.groups import ProtocolGroups, by_protocol, by_software, describe, populate
from iap_node.audit.habit import Habit, deviations, habit_testimony, one_voice, software_finding, study_findings
from iap_node.audit.usual import leave_out
from iap_node.audit.vocabulary import DeviceSpelling, Vocabulary, learn_vocabulary
from iap_node.records import Finding, PastSeries, StatedProtocol, Testimony

if TYPE_CHECKING:  # whoever reads files at rest in processes of its own needs no configuration there
    from iap_node.config import HabitConfig


@dataclass(frozen=True, slots=True)
class FolderHabits:
    """What the series of a folder have against each other, in the order of the series given."""

    findings: tuple[tuple[Finding, ...], ...]
    testimonies: tuple[Callable[[str], Testimony | None] | None, ...]  # what each series' habit says of an element
    groups: tuple[int | None, ...]  # rank of each series' parameter group; None: it is of no protocol
    protocols: tuple[ProtocolGroups, ...]  # those with the most series first


def compare_series(series: Sequence[PastSeries], config: HabitConfig, pinned: Vocabulary) -> FolderHabits:
    """Compare all series with each other, by scanner, software and protocol, and within each study."""
    stated = [one.protocol for one in series]
    vocabulary = learn_vocabulary(pinned, spellings(stated), _scan_options(stated))
    series = [replace(one, protocol=_in_words_of(vocabulary, one.protocol)) for one in series]
    places = {one.series: place for place, one in enumerate(series)}
    findings: list[list[Finding]] = [[] for _ in series]
    testimonies: list[Callable[[str], Testimony | None] | None] = [None] * len(series)
    groups: list[int | None] = [None] * len(series)
    protocols: list[ProtocolGroups] = []
    for alike in by_protocol(series).values():
        for same in by_software(alike).values():
            population = populate(same, config.tolerances, vocabulary)
            protocols.append(describe(population))
            members: defaultdict[str, list[int]] = defaultdict(list)
            for own, one in enumerate(same):
                members[one.study].append(own)
            left_out = {study: leave_out(population, of_study) for study, of_study in members.items()}
            for own, one in enumerate(same):
                place = places[one.series]
                groups[place] = population.group_of[own] + 1
                habit = Habit(population, own, config, vocabulary, left_out=left_out[one.study])
                testimonies[place] = partial(habit_testimony, own=one.protocol, habit=habit)
                findings[place] += deviations(one.protocol, habit)
        for one, finding in _software_changes(alike, config, vocabulary):
            findings[places[one.series]].append(finding)
    studies: defaultdict[str, list[int]] = defaultdict(list)
    for place, one in enumerate(series):
        studies[one.study].append(place)
    for together in studies.values():
        found = study_findings([series[place].protocol for place in together], vocabulary)
        for place, told in zip(together, found, strict=True):
            findings[place] = list(one_voice(findings[place], told))
    protocols.sort(key=lambda one: (-one.n_series, one.protocol, one.software_versions))
    return FolderHabits(tuple(map(tuple, findings)), tuple(testimonies), tuple(groups), tuple(protocols))


def spellings(stated: Iterable[StatedProtocol]) -> list[DeviceSpelling]:
    """How the scanners name themselves, and in how many series."""
    counted: Counter[tuple[str, str, str]] = Counter()
    for one in stated:
        values = dict(one.values)
        manufacturer, model, serial = (
            values.get(keyword, "") for keyword in ("Manufacturer", "ManufacturerModelName", "DeviceSerialNumber")
        )
        counted[manufacturer, model, serial] += 1
    return [(*names, n) for names, n in sorted(counted.items())]


def _scan_options(stated: Iterable[StatedProtocol]) -> list[tuple[str, int]]:
    counted = Counter(text for one in stated for keyword, text in one.values if keyword == "ScanOptions")
    return sorted(counted.items())


def _in_words_of(vocabulary: Vocabulary, stated: StatedProtocol) -> StatedProtocol:
    """With the model's name that the folder itself taught."""
    return replace(stated, model=vocabulary.model(dict(stated.values).get("ManufacturerModelName", "")))


def _software_changes(
    alike: Sequence[PastSeries], config: HabitConfig, vocabulary: Vocabulary
) -> Iterable[tuple[PastSeries, Finding]]:
    """The first series with a software that no earlier series of the protocol has, where their times are known."""
    in_time = sorted(
        (one for one in alike if one.at is not None), key=lambda one: (one.at.timestamp() if one.at else 0, one.series)
    )
    seen: set[str] = set()
    for place, one in enumerate(in_time):
        software = one.protocol.software_versions
        if software and software not in seen:
            seen.add(software)
            before = tuple(other for other in reversed(in_time[:place]) if other.protocol.software_versions)
            finding = software_finding(one.protocol, Habit(None, None, config, vocabulary, before))
            if finding is not None:
                yield one, finding
