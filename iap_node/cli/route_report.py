"""A route on a terminal: every domain, rule and model with every condition, as a tree that people read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.text import Text
from rich.tree import Tree

from iap_node.cli.output import printable
from iap_node.records import (
    ConditionSource,
    ConditionTrace,
    DomainTrace,
    RouteDecision,
    RouteOutcome,
    RouteTrace,
    Truth,
)

if TYPE_CHECKING:
    from iap_node.database.routes import RouteChange

_STYLE = {Truth.TRUE: "green", Truth.FALSE: "red", Truth.UNKNOWN: "yellow"}
_TOGETHER = {ConditionSource.ALL: "all of", ConditionSource.ANY: "any of", ConditionSource.NOT: "not"}
_SEEN = {
    ConditionSource.PIXELS: "the pixels: ",
    ConditionSource.HEADER: "the header: ",
    ConditionSource.SERIES: "the archive: ",
    ConditionSource.FINDINGS: "the audit: ",
    ConditionSource.DOMAIN: "",
}
_OUTCOME = {
    RouteOutcome.APPLIED: "applies",
    RouteOutcome.NOT_APPLIED: "does not apply",
    RouteOutcome.UNKNOWN: "nobody knows",
    RouteOutcome.NOT_REACHED: "not reached",
}


def target_text(decision: RouteDecision) -> str:
    """Where a decision sends a series, in words."""
    shadow = [f"{name} (shadow)" for name in decision.shadow_destinations]
    where = ", ".join([*decision.destinations, *shadow]) or "stays here"
    return f"held; once released: {where}" if decision.held else where


def route_tree(decision: RouteDecision, changes: Sequence[RouteChange] = ()) -> Tree:
    """The decision, its reason, and how every part of the rules came out."""
    by = " + ".join(decision.by) or "default route"
    tree = Tree(Text(f"Route: {by} -> {printable(target_text(decision))}", style="bold"))
    tree.add(Text(printable(decision.reason)))
    if decision.trace:
        domains = tree.add(Text("domains"))
        for domain in decision.trace:
            _add_domain(domains, domain)
    if decision.routes:
        routes = tree.add(Text("rules and downstream models, by priority"))
        for route in decision.routes:
            _add_route(routes, route)
    if changes:
        people = tree.add(Text("people"))
        for change in changes:
            where = ", ".join(change.destinations) or "nowhere"
            why = f": {change.reason}" if change.reason else ""
            when = printable(change.at)
            text = f"{when} {change.who} {change.action} revision {change.revision} to {where}{why}"
            people.add(Text(printable(text), style="bold"))
    tree.add(Text(f"rules of version {decision.rules_version}", style="dim"))
    return tree


def _add_domain(tree: Tree, domain: DomainTrace) -> None:
    line = Text(f"{printable(domain.domain)}: ")
    line.append(domain.truth, style=_STYLE[domain.truth])
    line.append(_probability(domain.probability, domain.at_least, domain.least_probability))
    branch = tree.add(line)
    for condition in domain.conditions:
        _add_condition(branch, condition)


def _add_route(tree: Tree, route: RouteTrace) -> None:
    style = _STYLE[route.truth] if route.outcome is not RouteOutcome.NOT_REACHED else "dim"
    line = Text(f"{route.kind} {printable(route.name)} (priority {route.priority}): ")
    line.append(_OUTCOME[route.outcome], style=style)
    line.append(_probability(route.probability, False, route.least_probability))
    if route.destinations and route.outcome is RouteOutcome.APPLIED:
        line.append(f" -> {printable(', '.join(route.destinations))}" + " (shadow)" * route.shadow)
    if route.consequence:
        line.append(f"; {printable(route.consequence)}")
    _add_condition(tree.add(line), route.condition)


def _add_condition(tree: Tree, condition: ConditionTrace) -> None:
    together = _TOGETHER.get(condition.source)
    line = Text(f"{together or printable(condition.condition)}: ")
    line.append(condition.truth, style=_STYLE[condition.truth])
    line.append(_probability(condition.probability, condition.at_least, None))
    if together is None and condition.observed:
        line.append(f"; {_SEEN[condition.source]}{printable(condition.observed)}")
    branch = tree.add(line)
    for part in condition.parts:
        _add_condition(branch, part)


def _probability(probability: float | None, at_least: bool, least: float | None) -> str:
    if probability is None:
        return ""
    asked = "" if least is None else f" of {least:g}"
    return f", p {'>=' if at_least else '='} {probability:.3f}{asked}"
