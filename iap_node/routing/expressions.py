"""Conditions taken together: truth by three-valued logic, and the joint probability of what is predicted.

An expression is compiled once per version of the rules and then judged for many series. It has two measures of truth,
and both must agree before it is true or false; whatever is left is unknown.

1. Kleene's logic over its parts. A single condition over the pixels is true when the model gives it at least the least
   probability asked for, false when it gives its opposite so much, else unknown.
2. The joint probability that it is true (for true) or false (for false). Conditions over one parameter exclude or
   include each other by their values, which is counted exactly; what is left uncertain of different parameters is taken
   as independent, since the heads of the network are calibrated one by one given the image. Where they are not
   independent, they hang together through the protocol (manufacturer, model and options are wrong together); then the
   product is below the true joint probability of all and errs towards unknown. For `any` the product errs the other
   way, which is why the first measure must agree: one of its parts must hold by itself.

Parts over one and the same parameter (two ranges of a number, side by side) are one part to the first measure, since
their joint probability assumes nothing. Learning more never turns true into false or back: both measures are monotone.
Only `missing` speaks of knowledge itself, and changes with it. Called by `rules`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from iap_node.config.routing import (
    AllConfig,
    AnyConfig,
    ConditionConfig,
    DomainConditionConfig,
    FindingConditionConfig,
    HeaderConditionConfig,
    NotConfig,
    SeriesConditionConfig,
)
from iap_node.records import ConditionSource, ConditionTrace, DomainTrace, RoutingEvidence, Truth
from iap_node.routing import distributions
from iap_node.routing.distributions import ParameterConditions, Piece
from iap_node.routing.logic import conjunction, disjunction, negation, truth_of
from iap_node.routing.sentences import condition_text, share
from iap_node.routing.stated import Stated, StatedTests, finding_truth

MOST_STEPS = 20_000  # of adding up one expression's probability; what is left over then counts as unknown
ROUNDING = 1e-12  # sums of probabilities may miss a bound by so much
_COMBINE = {ConditionSource.ALL: conjunction, ConditionSource.ANY: disjunction}


@dataclass(frozen=True, slots=True)
class Judged:
    """How an expression came out."""

    truth: Truth
    true_probability: float  # that it is true, by what is known
    false_probability: float  # that it is false; what both leave over, nobody knows
    predicted: bool  # whether the pixels have a say in it

    @property
    def probability(self) -> float | None:
        """That it holds; None where nobody knows, or nothing in it is predicted."""
        if not self.predicted or (self.true_probability <= 0.0 and self.at_least):
            return None
        return min(1.0, self.true_probability)

    @property
    def at_least(self) -> bool:
        """Whether the probability may be higher than it is known to be."""
        return 1.0 - self.true_probability - self.false_probability > 1e-9


@dataclass(frozen=True, slots=True)
class _Node:
    """A part of an expression: a condition, or parts taken together."""

    source: ConditionSource
    text: str
    parts: tuple[_Node, ...] = ()
    leaf: int = -1  # its number among the expression's conditions; -1: parts taken together
    parameters: frozenset[str] = frozenset()  # that the conditions below look at in the pixels


Pieces = dict[ParameterConditions, list[Piece]]
Pool = dict[tuple[ConditionConfig, ...], ParameterConditions]


@dataclass(slots=True)
class _Case:
    """One series before one expression."""

    evidence: RoutingEvidence
    domains: Mapping[str, DomainTrace]
    least_probability: float
    pieces: Pieces  # of the parameters that were asked for, by these or by other expressions
    truths: list[Truth] = field(default_factory=list)  # of every condition; of predicted ones while adding up
    observed: list[str] = field(default_factory=list)  # of stated conditions
    judged: dict[int, Judged] = field(default_factory=dict)  # by the part's identity: the trace asks again

    @property
    def enough(self) -> float:
        """The least probability, and never so little that true and false could both have it."""
        return max(self.least_probability - ROUNDING, 0.5 + ROUNDING)


class Expression:
    """A compiled expression.

    Parameters
    ----------
    term
        Of `iap_node.config.routing`.
    pool
        Conditions over one parameter that other expressions have made ready; grows.
    """

    def __init__(self, term: Any, pool: Pool | None = None) -> None:
        self._leaves: list[Any] = []
        self._stated: dict[int, StatedTests] = {}
        self._by_parameter: dict[str, list[int]] = {}
        self._root = self._compile(term)
        pool = {} if pool is None else pool
        self._conditions: dict[str, ParameterConditions] = {}
        for keyword, numbers in self._by_parameter.items():
            conditions = tuple(self._leaves[number] for number in numbers)
            if conditions not in pool:
                pool[conditions] = ParameterConditions(keyword, conditions)
            self._conditions[keyword] = pool[conditions]

    @property
    def parameters(self) -> frozenset[str]:
        """The parameters whose predictions it looks at, `missing` included."""
        return frozenset(leaf.parameter for leaf in self._leaves if isinstance(leaf, ConditionConfig))

    def judge(
        self,
        evidence: RoutingEvidence,
        least_probability: float,
        domains: Mapping[str, DomainTrace] | None = None,
        pieces: Pieces | None = None,
    ) -> tuple[Judged, ConditionTrace]:
        """How the expression comes out for a series, with the trace of every part.

        Parameters
        ----------
        domains
            How the domains came out that it refers to.
        pieces
            What other expressions of the same pool have found out about this series; grows.
        """
        case = self._case(evidence, least_probability, domains, pieces)
        return self._judge(self._root, case), self._trace(self._root, case)

    def outcome(
        self,
        evidence: RoutingEvidence,
        least_probability: float,
        domains: Mapping[str, DomainTrace] | None = None,
        pieces: Pieces | None = None,
    ) -> Judged:
        """As `judge`, without the trace, which takes most of the time."""
        return self._judge(self._root, self._case(evidence, least_probability, domains, pieces))

    def _compile(self, term: Any) -> _Node:
        if isinstance(term, NotConfig):
            part = self._compile(term.not_)
            return _Node(ConditionSource.NOT, condition_text(term), (part,), parameters=part.parameters)
        if isinstance(term, AllConfig | AnyConfig):
            source = ConditionSource.ALL if isinstance(term, AllConfig) else ConditionSource.ANY
            parts = tuple(self._compile(item) for item in (term.all if isinstance(term, AllConfig) else term.any))
            below = frozenset().union(*(part.parameters for part in parts))
            return _Node(source, condition_text(term), parts, parameters=below)
        number = len(self._leaves)
        self._leaves.append(term)
        looked_at: frozenset[str] = frozenset()
        if isinstance(term, ConditionConfig) and not term.missing:
            self._by_parameter.setdefault(term.parameter, []).append(number)
            looked_at = frozenset({term.parameter})
        elif isinstance(term, HeaderConditionConfig | SeriesConditionConfig):
            self._stated[number] = StatedTests(term)
        return _Node(_source(term), condition_text(term), leaf=number, parameters=looked_at)

    def _case(
        self,
        evidence: RoutingEvidence,
        least_probability: float,
        domains: Mapping[str, DomainTrace] | None,
        pieces: Pieces | None,
    ) -> _Case:
        case = _Case(evidence, domains or {}, least_probability, {} if pieces is None else pieces)
        for number, leaf in enumerate(self._leaves):
            if isinstance(leaf, ConditionConfig) and not leaf.missing:
                found = Stated(Truth.UNKNOWN, "")
            elif isinstance(leaf, ConditionConfig):
                found = Stated(truth_of(distributions.predicted(evidence.prediction, leaf.parameter) is None), "")
            elif isinstance(leaf, FindingConditionConfig):
                found = finding_truth(leaf, evidence)
            elif isinstance(leaf, DomainConditionConfig):
                domain = case.domains[leaf.domain]
                known = domain.probability is not None
                found = Stated(domain.truth, f"{share(domain.probability)} of {domain.least_probability:g}" * known)
            else:
                found = self._stated[number](evidence)
            case.truths.append(found.truth)
            case.observed.append(found.observed)
        return case

    def _pieces(self, keyword: str, case: _Case) -> list[Piece]:
        conditions = self._conditions[keyword]
        found = case.pieces.get(conditions)
        if found is None:
            pixels = distributions.predicted(case.evidence.prediction, keyword)
            found = case.pieces[conditions] = conditions.pieces(pixels)
        return found

    def _trace(self, node: _Node, case: _Case) -> ConditionTrace:
        judged = self._judge(node, case)
        probability = judged.probability
        observed = "" if node.leaf < 0 else case.observed[node.leaf]
        if node.source is ConditionSource.DOMAIN:
            probability = case.domains[self._leaves[node.leaf].domain].probability
        elif node.source is ConditionSource.PIXELS:
            keyword = self._leaves[node.leaf].parameter
            observed = distributions.observed(case.evidence.prediction, keyword)
            knows = distributions.predicted(case.evidence.prediction, keyword) is not None
            if judged.predicted and probability is None and knows:
                observed += "; the model knows no value of this condition"
        return ConditionTrace(
            condition=node.text,
            truth=judged.truth,
            probability=probability,
            observed=observed,
            source=node.source,
            at_least=probability is not None and judged.predicted and judged.at_least,
            parts=tuple(self._trace(part, case) for part in node.parts),
        )

    def _judge(self, node: _Node, case: _Case) -> Judged:
        known = case.judged.get(id(node))
        if known is not None:
            return known
        enough = case.enough
        true, false = self._probabilities((node,), ConditionSource.ALL, case)
        if len(node.parameters) <= 1:  # the probability is exact, and the only measure
            truth = Truth.TRUE if true >= enough else Truth.FALSE if false >= enough else Truth.UNKNOWN
        else:
            truth = Truth.UNKNOWN
            by_probability = Truth.TRUE if true >= enough else Truth.FALSE if false >= enough else Truth.UNKNOWN
            if by_probability is not Truth.UNKNOWN and self._truth(node, case) is by_probability:
                truth = by_probability
        judged = case.judged[id(node)] = Judged(truth, true, false, bool(node.parameters))
        return judged

    def _truth(self, node: _Node, case: _Case) -> Truth:
        """The first measure, of parts over several parameters."""
        if node.source is ConditionSource.NOT:
            return negation(self._judge(node.parts[0], case).truth)
        alike: dict[frozenset[str] | int, list[_Node]] = {}
        for number, part in enumerate(node.parts):
            alike.setdefault(part.parameters if len(part.parameters) == 1 else number, []).append(part)
        return _COMBINE[node.source](
            self._judge(parts[0], case).truth
            if len(parts) == 1
            else self._by_probability(parts, node.source, case)
            for parts in alike.values()
        )

    def _by_probability(self, parts: Sequence[_Node], how: ConditionSource, case: _Case) -> Truth:
        """Truth of parts over at most one parameter, whose probability is exact."""
        true, false = self._probabilities(parts, how, case)
        enough = case.enough
        return Truth.TRUE if true >= enough else Truth.FALSE if false >= enough else Truth.UNKNOWN

    def _probabilities(self, parts: Sequence[_Node], how: ConditionSource, case: _Case) -> tuple[float, float]:
        """That the parts, taken together, are true, and that they are false.

        Goes through the pieces of one parameter after the other. What is settled whatever the other parameters are is
        not looked at any further; with parts under `all` or `any` that is nearly everything. Where it is not, steps
        are bounded: both probabilities are lower bounds then.
        """
        truths = case.truths
        if len(parts) == 1 and parts[0].leaf >= 0:
            return self._of_condition(parts[0], case)
        looked_at = frozenset().union(*(part.parameters for part in parts))
        keywords = [keyword for keyword in self._by_parameter if keyword in looked_at]  # in the order of the rules

        def evaluate(node: _Node) -> Truth:
            if node.leaf >= 0:
                return truths[node.leaf]
            if node.source is ConditionSource.NOT:
                return negation(evaluate(node.parts[0]))
            return _COMBINE[node.source](evaluate(part) for part in node.parts)

        steps = 0

        def add_up(depth: int) -> tuple[float, float]:
            nonlocal steps
            steps += 1
            settled = _COMBINE[how](evaluate(part) for part in parts)
            if settled is not Truth.UNKNOWN:
                return (1.0, 0.0) if settled is Truth.TRUE else (0.0, 1.0)
            if depth == len(keywords) or steps > MOST_STEPS:
                return 0.0, 0.0
            numbers = self._by_parameter[keywords[depth]]
            true = false = 0.0
            for weight, outcome in self._pieces(keywords[depth], case):
                if weight <= 0.0:
                    continue
                for number, truth in zip(numbers, outcome, strict=True):
                    truths[number] = truth
                below_true, below_false = add_up(depth + 1)
                true += weight * below_true
                false += weight * below_false
            for number in numbers:
                truths[number] = Truth.UNKNOWN
            return true, false

        true, false = add_up(0)
        return min(1.0, true), min(1.0, false)

    def _of_condition(self, node: _Node, case: _Case) -> tuple[float, float]:
        if not node.parameters:
            truth = case.truths[node.leaf]
            return float(truth is Truth.TRUE), float(truth is Truth.FALSE)
        keyword = self._leaves[node.leaf].parameter
        place = self._by_parameter[keyword].index(node.leaf)
        true = false = 0.0
        for weight, outcome in self._pieces(keyword, case):
            if outcome[place] is Truth.TRUE:
                true += weight
            elif outcome[place] is Truth.FALSE:
                false += weight
        return min(1.0, true), min(1.0, false)


def _source(term: Any) -> ConditionSource:
    if isinstance(term, ConditionConfig):
        return ConditionSource.PIXELS
    if isinstance(term, HeaderConditionConfig):
        return ConditionSource.HEADER
    if isinstance(term, SeriesConditionConfig):
        return ConditionSource.SERIES
    return ConditionSource.DOMAIN if isinstance(term, DomainConditionConfig) else ConditionSource.FINDINGS
