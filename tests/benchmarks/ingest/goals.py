"""Issue 3's goals, each held against the medians of one run."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tests.benchmarks.ingest.rounds import Measurement
from tests.benchmarks.ingest.workloads import WORKLOADS

PREFILLED_TOLERANCE = 1.1  # "no more", on a machine whose medians of the same thing differ by some per cent


@dataclass(frozen=True)
class Goal:
    """One goal; `value` is None where it was not measured."""

    text: str
    value: float | None
    limit: float
    at_least: bool

    @property
    def passed(self) -> bool | None:
        if self.value is None:
            return None
        return self.value >= self.limit if self.at_least else self.value <= self.limit


class Medians:
    """Medians over the rounds of one bench."""

    def __init__(self, measurements: Sequence[Measurement]) -> None:
        self._all = measurements

    def of(self, number: str | Callable[[Measurement], float], **where: Any) -> float | None:
        """The median of a number over the measurements that have these values; None without any."""
        values = [value for one in self.matching(**where) if (value := _get(one, number)) is not None]
        return statistics.median(values) if values else None

    def ratio(self, number: str, of: dict[str, Any], to: dict[str, Any]) -> float | None:
        """Ratio of two medians."""
        first, second = self.of(number, **of), self.of(number, **to)
        return first / second if first is not None and second else None

    def matching(self, **where: Any) -> Iterable[Measurement]:
        """The measurements that have these values."""
        return (one for one in self._all if all(one.get(name) == value for name, value in where.items()))


def _get(one: Measurement, number: str | Callable[[Measurement], float]) -> float | None:
    if callable(number):
        return number(one) if "error" not in one else None
    value = one.get(number)
    return None if value is None else float(value)


def peak_mb(one: Measurement) -> float:
    """Peak memory of the receiver's largest process."""
    return float(max(one["peak_mb"]))


def goals(medians: Medians) -> list[Goal]:
    """All goals, in the issue's order."""
    found = []
    sizes = [(size.key, size.title) for size in WORKLOADS if any(True for _ in medians.matching(workload=size.key))]

    def speed(node: str, peer: str, limit: float, title: str, **where: Any) -> Goal:
        cell = {"part": "rates", "sender": "minimal", **where}
        value = medians.ratio("instances_per_s", {**cell, "receiver": node}, {**cell, "receiver": peer})
        return Goal(title, value, limit, at_least=True)

    def cell(size: str, n: int) -> str:
        return f"{size}, {'one association' if n == 1 else f'{n} associations'}"

    for node, peer, limit, text in (
        ("node-strict", "orthanc", 8.0, "strict / Orthanc"),
        ("node-strict", "storescp", 1.0, "strict / DCMTK storescp without sync"),
        ("node-strict", "storescp-bit", 1.0, "strict / DCMTK storescp, bit preserving, without sync"),
        ("node-relaxed", "storescp", 1.8, "relaxed / DCMTK storescp"),
    ):
        for key, title in sizes:
            for n in (1, 4):
                found.append(speed(node, peer, limit, f"rate, {text}: {cell(title, n)}", workload=key, associations=n))
    for peer, limit, text in (("orthanc", 8.0, "Orthanc"), ("storescp", 1.0, "DCMTK storescp without sync")):
        for key, title in sizes:  # for those who have more than one association at a time: listener.processes
            text_of_two = f"rate, strict, 2 processes / {text}: {cell(title, 4)}"
            found.append(speed("node-strict-2", peer, limit, text_of_two, workload=key, associations=4))
    for key, title in sizes:
        for n in (1, 4):
            where = {"part": "rates", "sender": "minimal", "workload": key, "associations": n}
            value = medians.ratio(
                "cpu_s_per_gb", {**where, "receiver": "node-strict"}, {**where, "receiver": "storescp"}
            )
            found.append(Goal(f"CPU per GB, strict / DCMTK storescp: {cell(title, n)}", value, 1.0, at_least=False))
    for sender in ("dcmsend", "storescu"):
        value = speed("node-strict", "storescp", 1.0, "", sender=sender, workload="mr320", associations=1).value
        found.append(Goal(f"rate as {sender} sees it, strict / DCMTK storescp", value, 1.0, at_least=True))
    memory = max(map(peak_mb, medians.matching(part="memory", receiver="node-strict", error=None)), default=None)
    found.append(Goal("MB per listener process with eight senders of 60 MB", memory, 120.0, at_least=False))
    for n in (1, 4):
        where = {"part": "prefilled", "associations": n}
        for number, text in ((_ms_per_instance, "time"), (_cpu_ms_per_instance, "CPU")):
            full = medians.of(number, **where, archive="prefilled", error=None)
            empty = medians.of(number, **where, archive="empty", error=None)
            found.append(
                Goal(
                    f"{text} per instance, ten million rows and a million files / empty: {cell('320 x 320', n)}",
                    full / empty if full is not None and empty else None,
                    PREFILLED_TOLERANCE,
                    at_least=False,
                )
            )
    return found


def _ms_per_instance(one: Measurement) -> float:
    return 1e3 / float(one["instances_per_s"])


def _cpu_ms_per_instance(one: Measurement) -> float:
    return float(one["cpu_s_per_gb"] * one["bytes"] / one["instances"] / 1e6)
