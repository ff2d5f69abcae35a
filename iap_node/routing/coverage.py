"""Which series had a downstream model, which fell between, and which model starves. Called by `iap-node coverage`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from iap_node.config.routing import RoutingConfig
from iap_node.database.route_history import DecidedSeries
from iap_node.records import Truth


@dataclass(frozen=True, slots=True)
class ModelCoverage:
    """One downstream model as it is registered, and what it was given."""

    model: str
    domain: str
    description: str
    address: str
    contact: str
    shadow: bool
    destinations: tuple[str, ...]
    n_series: int  # routed to it, in shadow or not; held ones included
    share: float | None  # of all series; None: there were none
    last_at: datetime | None  # when the last of them was judged
    n_domain_true: int  # series in its domain, by the rules that decided
    n_domain_unknown: int

    @property
    def starves(self) -> bool:
        """Whether it was given nothing."""
        return self.n_series == 0


@dataclass(frozen=True, slots=True)
class Gap:
    """Series without a model that are alike in which domains they missed."""

    true_domains: tuple[str, ...]  # that no model takes, or that a rule came before
    unknown_domains: tuple[str, ...]
    n_series: int
    share: float
    example: str  # Series Instance UID of the newest
    reason: str  # of that one


@dataclass(frozen=True, slots=True)
class Coverage:
    """How the models cover what came."""

    since: datetime
    n_series: int
    n_with_model: int  # shadows do not count
    n_by_rules: int  # sent by rules alone
    n_default: int
    n_held: int  # among all of the above: they wait, or waited, for a person
    models: tuple[ModelCoverage, ...]
    gaps: tuple[Gap, ...]  # the largest first

    @property
    def share_with_model(self) -> float | None:
        """None: there were no series."""
        return self.n_with_model / self.n_series if self.n_series else None


def coverage(config: RoutingConfig, series: Iterable[DecidedSeries], since: datetime) -> Coverage:
    """Count decisions as they were made; models that are not registered any more count as rules."""
    n_series = n_with_model = n_by_rules = n_default = n_held = 0
    taken: Counter[str] = Counter()
    last: dict[str, datetime] = {}
    truths: dict[Truth, Counter[str]] = {truth: Counter() for truth in Truth}
    gaps: Counter[tuple[tuple[str, ...], tuple[str, ...]]] = Counter()
    newest: dict[tuple[tuple[str, ...], tuple[str, ...]], DecidedSeries] = {}
    for one in series:
        n_series += 1
        decision = one.decision
        n_held += bool(decision.held)
        for domain, truth in decision.domain_truths:
            truths[Truth(truth)][domain] += 1
        models = [name for name in decision.by if name in config.downstream_models]
        for name in [*models, *decision.shadow_models]:
            taken[name] += 1
            last[name] = max(last.get(name, one.judged_at), one.judged_at)
        if models:
            n_with_model += 1
            continue
        n_by_rules += bool(decision.by)
        n_default += not decision.by
        key = (_domains(one, Truth.TRUE), _domains(one, Truth.UNKNOWN))
        gaps[key] += 1
        newest[key] = one
    return Coverage(
        since=since,
        n_series=n_series,
        n_with_model=n_with_model,
        n_by_rules=n_by_rules,
        n_default=n_default,
        n_held=n_held,
        models=tuple(
            ModelCoverage(
                model=name,
                domain=model.domain,
                description=model.description,
                address=model.address,
                contact=model.contact,
                shadow=model.shadow,
                destinations=model.destinations,
                n_series=taken[name],
                share=taken[name] / n_series if n_series else None,
                last_at=last.get(name),
                n_domain_true=truths[Truth.TRUE][model.domain],
                n_domain_unknown=truths[Truth.UNKNOWN][model.domain],
            )
            for name, model in config.downstream_models.items()
        ),
        gaps=tuple(
            Gap(key[0], key[1], number, number / n_series, newest[key].series_instance_uid, newest[key].decision.reason)
            for key, number in gaps.most_common()
        ),
    )


def _domains(one: DecidedSeries, truth: Truth) -> tuple[str, ...]:
    return tuple(domain for domain, found in one.decision.domain_truths if found == truth)
