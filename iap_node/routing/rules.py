"""Which route a series takes: rules and downstream models over everything that is known of it. Pure functions.

Rules and models are gone through from the highest priority to the lowest, rules before models where it is the same,
else as written. All that apply send the series, each destination once; a rule may hold it for a person, or stop what
comes after it. What nothing takes goes to the default route with the reason, and so does a series of which nobody
knows whether a rule stops or holds it (`if_unknown`), instead of where that rule might keep it from: unknown is never
false, and never enough. Shadow routes send and mark; a series that has no other route counts as not routed, and the
default route takes it too.

Called by `iap_node.worker.infer` and by `replay`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from iap_node.config.routing import (
    ConditionConfig,
    DomainConditionConfig,
    DomainConfig,
    FindingConditionConfig,
    HeaderConditionConfig,
    RoutingConfig,
)
from iap_node.dicom.parameters import BY_KEYWORD
from iap_node.records import (
    ConditionTrace,
    DomainTrace,
    RouteDecision,
    RouteKind,
    RouteOutcome,
    RouteTrace,
    RoutingEvidence,
    SeriesPrediction,
    Truth,
)
from iap_node.routing.expressions import Expression, Pieces, Pool
from iap_node.routing.sentences import share, weakest, why_default

Unknown = Literal["default", "hold", "pass"]
_UNTRACED = ConditionTrace("", Truth.UNKNOWN, None, "")


@dataclass(frozen=True, slots=True)
class _Route:
    """A rule, or a downstream model, compiled."""

    name: str
    kind: RouteKind
    priority: int
    expression: Expression
    least_probability: float
    destinations: tuple[str, ...]
    shadow: bool
    domain: str = ""  # of a model
    hold: str | None = None
    stop: bool = False
    if_unknown: Unknown = "pass"

    @property
    def withholds(self) -> bool:
        """Whether something is not sent because of it."""
        return self.stop or self.hold is not None


@dataclass(slots=True)
class _Course:
    """What has been decided so far, on the way from the highest priority to the lowest."""

    pieces: Pieces
    traced: bool
    traces: list[RouteTrace] = field(default_factory=list)
    applied: list[_Route] = field(default_factory=list)
    shadows: list[_Route] = field(default_factory=list)
    holds: list[tuple[str, str]] = field(default_factory=list)  # rule, reason
    stopped: bool = False
    undecided: list[RouteTrace] = field(default_factory=list)  # that might stop or hold: the default route instead
    might_hold: bool = False


class Rules:
    """The routing rules of one version, compiled: many series are decided by one."""

    def __init__(self, config: RoutingConfig) -> None:
        self.config = config
        self.version = rules_version(config)
        pool: Pool = {}
        self._domains = {
            name: (Expression(domain.term, pool), domain.least_probability) for name, domain in config.domains.items()
        }
        routes = [
            _Route(
                name,
                RouteKind.RULE,
                rule.priority,
                Expression(rule.when, pool),
                rule.least_probability,
                rule.destinations,
                rule.shadow,
                hold=rule.hold,
                stop=rule.stop,
                if_unknown=rule.if_unknown,
            )
            for name, rule in config.rules.items()
        ] + [
            _Route(
                name,
                RouteKind.MODEL,
                model.priority,
                Expression(DomainConditionConfig(domain=model.domain)),
                config.domains[model.domain].least_probability,
                model.destinations,
                model.shadow,
                domain=model.domain,
            )
            for name, model in config.downstream_models.items()
        ]
        self._routes = sorted(routes, key=lambda route: -route.priority)  # stable: else as written

    @property
    def parameters(self) -> frozenset[str]:
        """The parameters whose predictions the rules look at."""
        expressions = [expression for expression, _ in self._domains.values()]
        expressions += [route.expression for route in self._routes]
        return frozenset().union(*(expression.parameters for expression in expressions))

    @property
    def look_at_stated(self) -> bool:
        """Whether they look at header elements beyond the acquisition parameters."""
        return any(
            isinstance(term, HeaderConditionConfig) and term.header not in BY_KEYWORD for term in self.config.terms()
        )

    @property
    def look_at_findings(self) -> bool:
        """Whether they look at findings of the audit."""
        return any(isinstance(term, FindingConditionConfig) for term in self.config.terms())

    @property
    def headers(self) -> frozenset[str]:
        """The acquisition parameters whose header values the rules look at."""
        return frozenset(term.header for term in self.config.terms() if isinstance(term, HeaderConditionConfig))

    def decide(self, evidence: RoutingEvidence, *, traced: bool = True) -> RouteDecision:
        """Judge every domain, every rule and every model, and choose the route.

        Parameters
        ----------
        traced
            False: the decision alone, in a fraction of the time; its traces and its reason are empty.
        """
        pieces: Pieces = {}
        domains = {
            name: _domain_trace(name, expression, least, evidence, pieces, traced=traced)
            for name, (expression, least) in self._domains.items()
        }
        course = _Course(pieces, traced)
        for route in self._routes:
            _go_through(route, evidence, domains, course)
        blocked = course.undecided
        if course.might_hold:  # it might have to wait: where it would have gone by then, it does not go
            course.applied, course.shadows = [], []
        held = "; ".join(reason for _, reason in course.holds)
        destinations = list(dict.fromkeys(name for route in course.applied for name in route.destinations))
        by_default = not destinations or bool(blocked)
        if by_default:
            destinations = list(dict.fromkeys([*destinations, *self.config.default.destinations]))
        shadow = dict.fromkeys(name for route in course.shadows for name in route.destinations)
        models = [route for route in course.applied if route.kind is RouteKind.MODEL]
        sending = [route for route in course.applied if route.destinations]
        return RouteDecision(
            domain=models[0].domain if models else None,
            downstream_models=tuple(route.name for route in models),
            destinations=tuple(destinations),
            reason=self._reason(evidence, domains, course, blocked, by_default=by_default) if traced else "",
            trace=tuple(domains.values()) if traced else (),
            rules_version=self.version,
            routes=tuple(course.traces),
            by=tuple(route.name for route in sending),
            shadow_models=tuple(route.name for route in course.shadows if route.kind is RouteKind.MODEL),
            shadow_destinations=tuple(name for name in shadow if name not in destinations),
            held=held,
            unheard=evidence.unheard,
        )

    def _reason(
        self,
        evidence: RoutingEvidence,
        domains: Mapping[str, DomainTrace],
        course: _Course,
        blocked: list[RouteTrace],
        *,
        by_default: bool,
    ) -> str:
        parts = [f"held by {name}: {reason}" for name, reason in course.holds]
        for route in course.applied:
            if route.kind is RouteKind.RULE and route.hold is None:
                target = f" to {', '.join(route.destinations)}" if route.destinations else " stops what comes after it"
                parts.append(f"rule {route.name}{target}")
        models = [route for route in course.applied if route.kind is RouteKind.MODEL]
        if models:
            served = list(dict.fromkeys(route.domain for route in models))
            shown = [_shown(domains[name]) for name in served]
            by = "by the pixels" if any(domains[name].probability is not None for name in served) else "as stated"
            parts.append(f"{' and '.join(shown)} {by}: to {', '.join(route.name for route in models)}")
        if blocked:
            parts.append("default route: " + "; ".join(f"nobody knows whether {_doubt(trace)}" for trace in blocked))
        elif by_default:
            true_domains = [domain for domain in domains.values() if domain.truth is Truth.TRUE]
            why = why_default(
                evidence, list(domains.values()), true_domains, nothing_configured=not self._routes and not domains
            )
            parts.append(f"default route: {why}")
        if course.shadows:
            parts.append(f"in shadow to {', '.join(route.name for route in course.shadows)}")
        return "; ".join(parts)


def decide(
    prediction: SeriesPrediction | None,
    config: RoutingConfig,
    reason: str = "",
    evidence: RoutingEvidence | None = None,
) -> RouteDecision:
    """One decision by rules that are compiled for it alone.

    Parameters
    ----------
    prediction, reason
        Of the pixels; `reason` says why there is none.
    evidence
        What else is known; its prediction is not looked at.
    """
    known = evidence or RoutingEvidence()
    return Rules(config).decide(
        replace(known, prediction=prediction, not_analysed_reason=reason)
    )


def rules_version(config: RoutingConfig) -> str:
    """First 12 hexadecimal digits of SHA-256 over the rules as JSON, in the order of the configuration."""
    text = json.dumps(rules_text(config), separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def rules_text(config: RoutingConfig) -> dict[str, object]:
    """The rules as they are kept with their version: what `RoutingConfig.model_validate` takes again."""
    return config.model_dump(mode="json", exclude_none=True)


def judge_domain(name: str, domain: DomainConfig, evidence: RoutingEvidence) -> DomainTrace:
    """One domain with all its conditions."""
    return _domain_trace(name, Expression(domain.term), domain.least_probability, evidence)


def judge_condition(
    condition: ConditionConfig, prediction: SeriesPrediction | None, least_probability: float
) -> ConditionTrace:
    """One condition over the pixels: true when so probable, false when its opposite is, else unknown."""
    return Expression(condition).judge(RoutingEvidence(prediction), least_probability)[1]


def _domain_trace(
    name: str,
    expression: Expression,
    least: float,
    evidence: RoutingEvidence,
    pieces: Pieces | None = None,
    *,
    traced: bool = True,
) -> DomainTrace:
    if not traced:
        outcome = expression.outcome(evidence, least, None, pieces)
        return DomainTrace(name, outcome.truth, outcome.probability, least, ())
    judged, trace = expression.judge(evidence, least, None, pieces)
    conditions = trace.parts if trace.source == "all" else (trace,)
    at_least = judged.at_least and judged.probability is not None
    return DomainTrace(name, judged.truth, judged.probability, least, conditions, at_least)


def _go_through(
    route: _Route, evidence: RoutingEvidence, domains: Mapping[str, DomainTrace], course: _Course
) -> None:
    if not course.traced and course.stopped:
        return
    if course.traced:
        judged, condition = route.expression.judge(evidence, route.least_probability, domains, course.pieces)
    else:
        judged = route.expression.outcome(evidence, route.least_probability, domains, course.pieces)
        condition = _UNTRACED
    truth = judged.truth
    outcome = {Truth.TRUE: RouteOutcome.APPLIED, Truth.FALSE: RouteOutcome.NOT_APPLIED}.get(truth, RouteOutcome.UNKNOWN)
    reached = not course.stopped
    consequence = ""
    if not reached:
        outcome = RouteOutcome.NOT_REACHED
    elif truth is Truth.TRUE:
        consequence = _consequence(route)
    elif truth is Truth.UNKNOWN and route.withholds:
        doubt = "stops" if route.hold is None else "holds"
        consequence = {
            "default": f"default route: nobody knows whether it {doubt}",
            "hold": f"held: nobody knows whether it {doubt}",
            "pass": "passed over (if_unknown: pass)",
        }[route.if_unknown]
    trace = RouteTrace(
        name=route.name,
        kind=route.kind,
        priority=route.priority,
        truth=truth,
        outcome=outcome,
        probability=condition.probability,
        least_probability=route.least_probability,
        condition=condition,
        destinations=route.destinations,
        shadow=route.shadow,
        consequence=consequence,
    )
    if course.traced:
        course.traces.append(trace)
    if outcome is RouteOutcome.APPLIED:
        (course.shadows if route.shadow else course.applied).append(route)
        if route.hold is not None:
            course.holds.append((route.name, route.hold))
        course.stopped = route.stop
    elif outcome is RouteOutcome.UNKNOWN and route.withholds and route.if_unknown == "hold":
        course.holds.append((route.name, f"nobody knows whether {_doubt(trace)}"))
    elif outcome is RouteOutcome.UNKNOWN and route.withholds and route.if_unknown == "default":
        course.undecided.append(trace)
        course.stopped = True
        course.might_hold = course.might_hold or route.hold is not None


def _consequence(route: _Route) -> str:
    parts = [f"holds: {route.hold}"] if route.hold is not None else []
    return "; ".join(parts + ["stops what comes after it"] * route.stop)


def _doubt(trace: RouteTrace) -> str:
    """`rule NAME applies: 'condition' is unknown; seen: ...`, by the condition to blame."""
    conditions = [trace.condition]
    while True:
        blamed = weakest(conditions)
        if blamed is None:
            return f"rule {trace.name} applies: it would with {share(trace.probability)}"
        if not blamed.parts or weakest(blamed.parts) is None:
            seen = f"; seen: {blamed.observed}" if blamed.observed else ""
            return f"rule {trace.name} applies: '{blamed.condition}' is {blamed.truth}{seen}"
        conditions = list(blamed.parts)


def _shown(domain: DomainTrace) -> str:
    return domain.domain if domain.probability is None else f"{domain.domain} ({share(domain.probability)})"
