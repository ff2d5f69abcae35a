"""The scanner's habit as a witness: what this device with this software usually writes for this protocol.

Called by the worker for one series against the archive, and by the audit of a folder::

    vocabulary = learn_vocabulary(load_vocabulary(config.audit.habit.vocabulary), device_spellings(session))
    own = stated_protocol(instances, vocabulary)
    habit = learn_habit(own, history(session, own, series_id, config.audit.habit.series), config, vocabulary)
    found = habit_findings(own, habit, of_study(session, series_id), config, vocabulary)
    habit_testimony("EchoTime", own, habit)     # for or against what another witness found
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from iap_node.audit.protocol import stated_protocol
from iap_node.audit.vocabulary import Vocabulary
from iap_node.config import HabitConfig
from iap_node.records import Finding, PastSeries, StatedProtocol, Testimony

__all__ = [
    "DEVIATES", "SOFTWARE_CHANGED", "STUDY", "Habit", "habit_findings", "habit_testimony", "learn_habit",
    "stated_protocol",
]  # fmt: skip

DEVIATES, SOFTWARE_CHANGED, STUDY = "habit-deviates", "habit-software-changed", "habit-study"


@dataclass(frozen=True, slots=True)
class Habit:
    """What one scanner usually writes for one protocol, with the software of one series."""


def learn_habit(
    own: StatedProtocol, history: Sequence[PastSeries], config: HabitConfig, vocabulary: Vocabulary
) -> Habit:
    """The habit that other series of the same device and protocol show."""
    raise NotImplementedError


def habit_findings(
    own: StatedProtocol, habit: Habit, study: Sequence[PastSeries], config: HabitConfig, vocabulary: Vocabulary
) -> tuple[Finding, ...]:
    """What the scanner's habit, and the other series of its study, have against the header of a series."""
    raise NotImplementedError


def habit_testimony(element: str, own: StatedProtocol, habit: Habit) -> Testimony | None:
    """What the habit says of an element that another witness found fault with; None where it knows nothing of it."""
    raise NotImplementedError
