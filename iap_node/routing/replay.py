"""What if: decisions made again by other rules, from what is stored, and held against those that stand. Sends nothing.

The evidence is what the archive has now: prediction, header and series as they were judged, findings in the state that
people have brought them to since. What people did about a route (releases, reroutes) is not part of either side. Called
by `iap-node replay`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from iap_node.database.route_history import DecidedSeries, PastDecision, Wanted
from iap_node.records import RouteDecision, RoutingEvidence
from iap_node.routing.rules import Rules

DEFAULT_ROUTE = "default route"


class Way(NamedTuple):
    """A route in a summary: who sends a series, and where to."""

    route: str  # names of rules and models, or the default route
    destinations: tuple[str, ...]
    shadow_destinations: tuple[str, ...]
    held: bool


@dataclass(frozen=True, slots=True)
class Replayed:
    """One series, decided again."""

    series_instance_uid: str
    series_description: str
    judged_at: datetime
    before: Way
    after: Way
    reason_before: str
    evidence: RoutingEvidence  # why it would go there, `Rules.decide` says at length

    @property
    def goes_elsewhere(self) -> bool:
        """Whether it would be sent to other destinations, or held where it was not."""
        return _target(self.before) != _target(self.after)


@dataclass(slots=True)
class Tally:
    """How many series went and would go which way."""

    n_series: int = 0
    n_elsewhere: int = 0
    ways: Counter[tuple[Way, Way]] = field(default_factory=Counter)

    def count(self, one: Replayed) -> None:
        """Count one series in."""
        self.n_series += 1
        self.n_elsewhere += one.goes_elsewhere
        self.ways[one.before, one.after] += 1


def wanted_by(rules: Rules) -> Wanted:
    """What of the evidence the rules look at."""
    return Wanted(rules.parameters, rules.headers, stated=rules.look_at_stated, findings=rules.look_at_findings)


def replay(rules: Rules, series: Iterable[DecidedSeries]) -> Iterator[Replayed]:
    """Decide each series again; one comes out for each that goes in."""
    for one in series:
        assert one.evidence is not None  # asked for with it
        after = rules.decide(one.evidence, traced=False)
        yield Replayed(
            one.series_instance_uid,
            one.series_description,
            one.judged_at,
            _way(one.decision),
            _way(after),
            one.decision.reason,
            one.evidence,
        )


def _way(decision: PastDecision | RouteDecision) -> Way:
    route = " + ".join(decision.by) or DEFAULT_ROUTE
    return Way(route, decision.destinations, decision.shadow_destinations, bool(decision.held))


def _target(way: Way) -> tuple[frozenset[str], frozenset[str], bool]:
    return frozenset(way.destinations), frozenset(way.shadow_destinations), way.held
