"""The audit of files at rest: which series lie in a folder, and what their headers have against them.

Called by `iap-node audit`. No node is needed, and nothing is written. Files are identified first, so that a series is
read and checked as a whole wherever its instances lie, and no more than one series per process is in memory. What each
states of its protocol is kept, and compared with the others at the end.
"""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

from iap_node.audit.checks import check_series
from iap_node.audit.folder_habits import compare_series
from iap_node.audit.groups import ProtocolGroups
from iap_node.audit.protocol import acquired_at, stated_protocol
from iap_node.audit.vocabulary import Vocabulary, load_vocabulary
from iap_node.dicom.part10 import read_instance_header
from iap_node.dicom.statements import InstanceStatements, read_statements
from iap_node.errors import UnreadableInstance
from iap_node.records import Finding, InstanceHeader, PastSeries, StatedProtocol, Testimony

if TYPE_CHECKING:  # the processes that read files need no configuration, and no pixels
    from iap_node.audit.pixels_at_rest import PixelJudgement
    from iap_node.config import HabitConfig

FILES_AT_ONCE = 64  # identified by a process at a time
FEW_FILES = 200  # are read by this process: others would take longer to start

Item = TypeVar("Item")
Result = TypeVar("Result")


class _Run(Protocol):
    """How a function is applied to many things, in order."""

    def __call__(self, function: Callable[[Item], Result], items: Iterable[Item], /) -> Iterator[Result]: ...


@dataclass(frozen=True, slots=True)
class UnreadFile:
    """A file that is no instance, or a damaged one, or cannot be opened."""

    path: Path
    reason: str


@dataclass(frozen=True, slots=True)
class AuditedSeries:
    """One series of the folder."""

    study_instance_uid: str
    series_instance_uid: str
    folders: tuple[Path, ...]  # where its instances lie
    n_instances: int
    modality: str
    manufacturer: str
    manufacturer_model_name: str
    software_versions: str
    series_number: int | None
    series_description: str
    protocol_name: str
    findings: tuple[Finding, ...]  # of the header checks, then what its scanner's habit and its study have against it
    stated: StatedProtocol | None = None  # what habits are made of
    acquired_at: datetime | None = None  # None: no usable date in its headers
    group: int | None = None  # rank of its parameter group; None: nobody can tell which series are meant to be alike
    files: tuple[Path, ...] = ()  # its instances, damaged ones included
    pixels: PixelJudgement | None = None  # None: nobody looked at them
    # What the habit says of an element (DICOM keyword); None: nobody can tell what is usual.
    habit: Callable[[str], Testimony | None] | None = dataclasses.field(default=None, compare=False, repr=False)

    @property
    def series_key(self) -> str:
        """What tells it from the others of the folder: a Series Instance UID may appear in two studies."""
        return f"{self.study_instance_uid}/{self.series_instance_uid}"


@dataclass(frozen=True, slots=True)
class FolderAudit:
    """All of a folder, in the order of its files."""

    root: Path
    n_files: int
    series: tuple[AuditedSeries, ...]
    unread: tuple[UnreadFile, ...]
    protocols: tuple[ProtocolGroups, ...] = ()  # by scanner, software, protocol; the groups' series are `series_key`s

    @property
    def n_instances(self) -> int:
        return sum(series.n_instances for series in self.series)

    @property
    def n_findings(self) -> int:
        return sum(len(series.findings) for series in self.series)


class _Identified(NamedTuple):
    path: Path
    header: InstanceHeader


def audit_files(
    root: Path,
    paths: Sequence[Path],
    *,
    processes: int,
    read: Callable[[int], None] = lambda _: None,
    habit: HabitConfig | None = None,
) -> FolderAudit:
    """Identify, read and check the instances among files.

    Parameters
    ----------
    root
        The folder that was asked for.
    processes
        How many read and check at once.
    read
        Told of so many files more that were looked at; each is looked at twice.
    habit
        When the habits that the series show together may speak; None: as by default.

    Raises
    ------
    ConfigError
        The vocabulary's file is not usable.
    """
    from iap_node.config import HabitConfig

    habit = habit or HabitConfig()
    pinned = load_vocabulary(habit.vocabulary)
    unread: list[UnreadFile] = []
    of_series: defaultdict[tuple[str, str], list[_Identified]] = defaultdict(list)
    with _workers(processes if len(paths) > FEW_FILES else 1) as run:
        chunks = [paths[start : start + FILES_AT_ONCE] for start in range(0, len(paths), FILES_AT_ONCE)]
        for chunk, found in zip(chunks, run(_identify, chunks), strict=True):
            for one in found:
                if isinstance(one, UnreadFile):
                    unread.append(one)
                    read(1)  # not looked at again
                else:
                    of_series[one.header.study_instance_uid, one.header.series_instance_uid].append(one)
            read(len(chunk))
        audited: list[AuditedSeries] = []
        groups = list(of_series.values())
        for group, (series, damaged) in zip(groups, run(partial(_audit, pinned), groups), strict=True):
            audited.append(series)
            unread.extend(damaged)
            read(len(group))
    compared, protocols = _compared(audited, habit, pinned)
    return FolderAudit(root, len(paths), compared, tuple(sorted(unread, key=lambda one: one.path)), protocols)


def _compared(
    audited: Sequence[AuditedSeries], habit: HabitConfig, pinned: Vocabulary
) -> tuple[tuple[AuditedSeries, ...], tuple[ProtocolGroups, ...]]:
    """The series with what they have against each other."""
    past = [
        PastSeries(one.series_key, one.study_instance_uid, one.stated, one.acquired_at)
        for one in audited
        if one.stated is not None
    ]
    habits = compare_series(past, habit, pinned)
    told = {one.series: place for place, one in enumerate(past)}
    series = []
    for one in audited:
        place = told.get(one.series_key)
        if place is not None:
            findings = one.findings + habits.findings[place]
            one = dataclasses.replace(
                one, findings=findings, group=habits.groups[place], habit=habits.testimonies[place]
            )
        series.append(one)
    return tuple(series), habits.protocols


@contextlib.contextmanager
def _workers(processes: int) -> Iterator[_Run]:
    """Apply functions in this process, or in some of their own."""
    if processes == 1:
        yield map
        return
    # started anew, not forked: whoever shows our progress may have threads
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool.map


def _identify(paths: Sequence[Path]) -> list[_Identified | UnreadFile]:
    found: list[_Identified | UnreadFile] = []
    for path in paths:
        try:
            found.append(_Identified(path, read_instance_header(path)))
        except (UnreadableInstance, OSError) as error:
            found.append(UnreadFile(path, _reason(error)))
    return found


def _reason(error: UnreadableInstance | OSError) -> str:
    """Without the file's name, which stands beside it."""
    return error.strerror or type(error).__name__ if isinstance(error, OSError) else str(error)


def _audit(pinned: Vocabulary, group: Sequence[_Identified]) -> tuple[AuditedSeries, list[UnreadFile]]:
    instances: list[InstanceStatements] = []
    damaged: list[UnreadFile] = []
    for path, _ in group:
        try:
            instances.append(read_statements(path))
        except (UnreadableInstance, OSError) as error:
            damaged.append(UnreadFile(path, _reason(error)))
    header = group[0].header
    series = AuditedSeries(
        study_instance_uid=header.study_instance_uid,
        series_instance_uid=header.series_instance_uid,
        folders=tuple(dict.fromkeys(path.parent for path, _ in group)),
        n_instances=len(instances),
        modality=header.modality,
        manufacturer=header.manufacturer,
        manufacturer_model_name=header.manufacturer_model_name,
        software_versions=header.software_versions,
        series_number=header.series_number,
        series_description=header.series_description,
        protocol_name=header.protocol_name,
        findings=check_series(instances),
        stated=stated_protocol(instances, pinned),
        acquired_at=acquired_at(instances),
        files=tuple(path for path, _ in group),
    )
    return series, damaged
