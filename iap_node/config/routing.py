"""`routing` in config.yaml: domains, downstream models, rules and the default route. What may be written, no meaning.

What the keys mean stands in `iap_node.routing`; nothing here is ever evaluated as code. The descriptions go into the
JSON Schema (`docs/config.schema.json`), from which editors complete config.yaml.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Discriminator, Field, Tag, field_validator, model_validator

from iap_node.config.patterns import Pattern
from iap_node.config.section import Section, did_you_mean
from iap_node.dicom.parameters import BY_KEYWORD, AcquisitionParameter, Nature, canonical_number
from iap_node.dicom.protocol import ELEMENTS
from iap_node.records import FindingState, Severity, Witness


def _no_truth_value(value: object) -> object:
    if isinstance(value, bool):  # in YAML yes, no, on and off are truth values too, which no element has
        raise ValueError(f"{'true' if value else 'false'} is a truth value: put the word in quotes")
    return value


Value = Annotated[str | float, BeforeValidator(_no_truth_value)]
SeriesFact = Literal[
    "CallingAETitle",
    "Modality",
    "SeriesDescription",
    "ProtocolName",
    "BodyPartExamined",
    "Manufacturer",
    "ManufacturerModelName",
    "DeviceSerialNumber",
    "SoftwareVersions",
    "SeriesNumber",
    "StudyDate",
    "NumberOfSeriesRelatedInstances",
]
SERIES_FACTS: tuple[str, ...] = get_args(SeriesFact)
# Elements of which the node keeps what the headers of a series state: the acquisition parameters, of which it also
# knows when they are missing, and what else makes a protocol.
HEADER_ELEMENTS: dict[str, AcquisitionParameter] = {
    **{element.keyword: element.parameter for element in ELEMENTS},
    **BY_KEYWORD,
}
NUMERIC_FACTS = frozenset({"SeriesNumber", "NumberOfSeriesRelatedInstances"})


def _listed(value: object) -> object:
    return (value,) if isinstance(value, str) else value


Texts = Annotated[tuple[str, ...], BeforeValidator(_listed, json_schema_input_type=str | tuple[str, ...])]
Severities = Annotated[
    tuple[Severity, ...], BeforeValidator(_listed, json_schema_input_type=Severity | tuple[Severity, ...])
]
Witnesses = Annotated[
    tuple[Witness, ...], BeforeValidator(_listed, json_schema_input_type=Witness | tuple[Witness, ...])
]
States = Annotated[
    tuple[FindingState, ...], BeforeValidator(_listed, json_schema_input_type=FindingState | tuple[FindingState, ...])
]
MOST_CONDITIONS = 64  # in one domain or rule: what people can still read


class TestsConfig(Section):
    """What is asked of a value: exactly one of equals, one_of, near (with within), between, matches, missing."""

    equals: Value | None = Field(None, description="The value; text without case, numbers within their tolerance.")
    one_of: tuple[Value, ...] | None = Field(None, min_length=1, description="Any of these values.")
    near: float | None = Field(None, description="A number, with `within`: the largest distance from it.")
    within: float | None = Field(None, ge=0, description="How far from `near`, in the parameter's unit.")
    between: tuple[float, float] | None = Field(None, description="Lower and upper bound, both included.")
    matches: str | None = Field(
        None,
        min_length=1,
        description="A regular expression (Rust's regex: linear time), found anywhere in the text, without case.",
    )
    missing: Literal[True] | None = Field(
        None, description="No value: absent or empty in the header, or nothing that the model could say."
    )

    @property
    def values(self) -> tuple[Value, ...]:
        """What `equals` or `one_of` name; empty for the other tests."""
        if self.one_of is not None:
            return self.one_of
        return () if self.equals is None else (self.equals,)

    def _check(self, title: str, *, number: bool) -> None:
        """One test, and one that suits the subject."""
        given = [
            name
            for name in ("equals", "one_of", "near", "between", "matches", "missing")
            if getattr(self, name) is not None
        ]
        if len(given) != 1:
            raise ValueError(
                "give exactly one of equals, one_of, near, between, matches, missing"
                + (f", not {' and '.join(given)}" if given else "")
            )
        if (self.near is None) != (self.within is None):
            raise ValueError("near and within go together")
        if not number and (self.near is not None or self.between is not None):
            raise ValueError(f"{title} is not a number: use equals, one_of or matches")
        if number and self.matches is not None:
            raise ValueError(f"{title} is a number: use equals, near or between")
        for value in self.values if number else ():
            if canonical_number(str(value)) is None:
                raise ValueError(f"{title} is a number: {value!r} is none")
        if self.between is not None and self.between[0] > self.between[1]:
            raise ValueError("between needs the lower bound first")
        if self.matches is not None:
            Pattern(self.matches)


class ConditionConfig(TestsConfig):
    """A condition over what the model reads from the pixels; it holds with a probability."""

    parameter: str = Field(
        description="An acquisition parameter, predicted from the pixels.",
        json_schema_extra={"enum": [*BY_KEYWORD]},
    )

    @model_validator(mode="after")
    def _one_test(self) -> ConditionConfig:
        if self.parameter not in BY_KEYWORD:
            raise ValueError(f"unknown parameter {self.parameter!r}{did_you_mean(self.parameter, BY_KEYWORD)}")
        self._check(self.parameter, number=BY_KEYWORD[self.parameter].nature is Nature.NUMBER)
        return self


class HeaderConditionConfig(TestsConfig):
    """A condition over what the headers of the series state, one value for the whole series."""

    header: str = Field(
        description="DICOM keyword of an element that the node keeps. Of the acquisition parameters it knows when they "
        "are missing or vary in the series; others are unknown then.",
        json_schema_extra={"enum": [*sorted(HEADER_ELEMENTS)]},
    )

    @model_validator(mode="after")
    def _one_test(self) -> HeaderConditionConfig:
        if self.header in SERIES_FACTS and self.header not in HEADER_ELEMENTS:
            raise ValueError(f"write series: {self.header}, which the archive knows of every series")
        if self.header not in HEADER_ELEMENTS:
            near = did_you_mean(self.header, HEADER_ELEMENTS)
            raise ValueError(f"the node does not keep an element {self.header!r}{near}")
        self._check(self.header, number=HEADER_ELEMENTS[self.header].nature is Nature.NUMBER)
        return self


class SeriesConditionConfig(TestsConfig):
    """A condition over what the archive knows of a series and its study: who sent it, what it is called, how many."""

    series: SeriesFact = Field(description="CallingAETitle is the sender's; the others are DICOM keywords.")

    @model_validator(mode="after")
    def _one_test(self) -> SeriesConditionConfig:
        self._check(self.series, number=self.series in NUMERIC_FACTS)
        return self


class FindingConditionConfig(Section):
    """True when the audit has a finding of this kind, false when it has none, unknown when it did not look."""

    finding: str = Field(min_length=1, description="Name of the check, or `any`.")
    element: Texts | None = Field(None, description="DICOM keyword, or several: only against these.")
    severity: Severities | None = Field(None, description="Only of this severity, or these.")
    raised_by: Witnesses | None = Field(None, description="Only by this witness, or these.")
    state: States = Field((FindingState.OPEN, FindingState.ACCEPTED), description="Only in this state, or these.")

    @field_validator("element")
    @classmethod
    def _elements(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for keyword in value or ():
            if keyword not in BY_KEYWORD and not _is_dicom_keyword(keyword):
                raise ValueError(f"unknown DICOM keyword {keyword!r}{_nearest_keyword(keyword)}")
        return value


class DomainConditionConfig(Section):
    """True, false or unknown as the domain of this name is, by the domain's own least probability."""

    domain: str = Field(description="Name of a domain under routing.domains.")


class AllConfig(Section):
    """True when all hold, false when one does not."""

    all: tuple[Term, ...] = Field(min_length=1)


class AnyConfig(Section):
    """True when one holds, false when none does."""

    any: tuple[Term, ...] = Field(min_length=1)


class NotConfig(Section):
    """True when it does not hold; unknown stays unknown."""

    not_: Term = Field(alias="not")


_TERMS: dict[str, type[Section]] = {
    "all": AllConfig,
    "any": AnyConfig,
    "not": NotConfig,
    "parameter": ConditionConfig,
    "header": HeaderConditionConfig,
    "series": SeriesConditionConfig,
    "finding": FindingConditionConfig,
    "domain": DomainConditionConfig,
}
TERM_KEYS = tuple(_TERMS)
TERM_PROBLEM = "no_condition"


def _tag(key: str) -> str:
    return f"({key})"  # `load_config` leaves such parts out of what it shows as the place of an error


def section_of_tag(part: object) -> type[Section] | None:
    """The section that a part of an error's location stands for; None: it is a key, a name or a number."""
    return next((section for key, section in _TERMS.items() if _tag(key) == part), None)


def _kind_of_term(value: object) -> str | None:
    if isinstance(value, dict):
        return next((_tag(key) for key in _TERMS if key in value), None)
    return next((_tag(key) for key, section in _TERMS.items() if type(value) is section), None)


Term = Annotated[
    Annotated[AllConfig, Tag("(all)")]
    | Annotated[AnyConfig, Tag("(any)")]
    | Annotated[NotConfig, Tag("(not)")]
    | Annotated[ConditionConfig, Tag("(parameter)")]
    | Annotated[HeaderConditionConfig, Tag("(header)")]
    | Annotated[SeriesConditionConfig, Tag("(series)")]
    | Annotated[FindingConditionConfig, Tag("(finding)")]
    | Annotated[DomainConditionConfig, Tag("(domain)")],
    Discriminator(
        _kind_of_term,
        custom_error_type=TERM_PROBLEM,
        custom_error_message=f"a condition begins with one of {', '.join(TERM_KEYS)}",
    ),
]


class DomainConfig(Section):
    """A set of images that a downstream model can work on. Exactly one of all, any, not."""

    description: str = ""
    least_probability: float = Field(
        0.8, gt=0.5, le=1, description="A condition holds when it is so probable, and all of them together too."
    )
    all: tuple[Term, ...] | None = Field(None, min_length=1)
    any: tuple[Term, ...] | None = Field(None, min_length=1)
    not_: Term | None = Field(None, alias="not")

    @model_validator(mode="after")
    def _one_expression(self) -> DomainConfig:
        if [self.all, self.any, self.not_].count(None) != 2:
            raise ValueError("give exactly one of all, any, not")
        terms = list(_walk(self.term))
        if len(terms) > MOST_CONDITIONS:
            raise ValueError(f"{len(terms)} conditions; at most {MOST_CONDITIONS}")
        if any(isinstance(term, DomainConditionConfig) for term in terms):
            raise ValueError("a domain is made of conditions, not of other domains; combine domains in a rule")
        return self

    @property
    def term(self) -> Any:
        """The expression: an `AllConfig`, `AnyConfig` or `NotConfig`."""
        if self.all is not None:
            return AllConfig.model_construct(all=self.all)
        if self.any is not None:
            return AnyConfig.model_construct(any=self.any)
        assert self.not_ is not None  # one of the three is given
        return NotConfig.model_construct(not_=self.not_)


class DownstreamModelConfig(Section):
    """An AI model downstream: the domain that it accepts, where its series go, where it lives, who answers for it."""

    domain: str = Field(description="Name of the domain that it accepts.")
    destinations: tuple[str, ...] = Field(min_length=1, description="Names under `destinations`.")
    shadow: bool = Field(False, description="Its series are sent and marked as shadow; they count as not routed.")
    priority: int = Field(0, description="Higher ones first; what a stopping rule comes before is not reached.")
    description: str = Field("", description="What the model does.")
    address: str = Field("", description="Where it lives: host, service, room, URL.")
    contact: str = Field("", description="Who is responsible.")


class RuleConfig(Section):
    """A route by itself: when its condition holds, the series is sent, held, or nothing after it applies."""

    description: str = ""
    priority: int = Field(0, description="Higher ones first; among equals rules before models, as written.")
    when: Term
    least_probability: float = Field(0.8, gt=0.5, le=1, description="As of a domain.")
    destinations: tuple[str, ...] = Field((), description="Names under `destinations`.")
    shadow: bool = Field(False, description="What this rule sends is marked as shadow, and counts as not routed.")
    hold: str | None = Field(
        None, min_length=1, description="Nothing is sent until a person releases the series; this text says why."
    )
    stop: bool = Field(False, description="Rules and models of lower priority are not reached.")
    if_unknown: Literal["default", "hold", "pass"] = Field(
        "default",
        description="Of a rule that stops or holds, while nobody knows whether it applies: `default` gives the series "
        "to the default route instead of where the rule might keep it from, `hold` lets it wait for a person, `pass` "
        "goes on as if the rule did not apply.",
    )

    @model_validator(mode="after")
    def _does_something(self) -> RuleConfig:
        if not self.destinations and self.hold is None and not self.stop:
            raise ValueError("a rule sends to destinations, holds or stops: give at least one of them")
        if self.shadow and not self.destinations:
            raise ValueError("shadow marks what is sent: give destinations")
        n_terms = sum(1 for _ in _walk(self.when))
        if n_terms > MOST_CONDITIONS:
            raise ValueError(f"{n_terms} conditions; at most {MOST_CONDITIONS}")
        return self


class DefaultRouteConfig(Section):
    """Where a series goes that nothing claims; without destinations it stays here and is shown as unrouted."""

    destinations: tuple[str, ...] = ()


class RoutingConfig(Section):
    """Domains, downstream models, rules and the default route."""

    domains: dict[str, DomainConfig] = Field(default_factory=dict)
    downstream_models: dict[str, DownstreamModelConfig] = Field(default_factory=dict)
    rules: dict[str, RuleConfig] = Field(default_factory=dict)
    default: DefaultRouteConfig = DefaultRouteConfig()

    @model_validator(mode="after")
    def _domains_are_defined(self) -> RoutingConfig:
        named = [(f"downstream_models.{name}.domain", model.domain) for name, model in self.downstream_models.items()]
        named += [
            (f"rules.{name}.when", term.domain)
            for name, rule in self.rules.items()
            for term in _walk(rule.when)
            if isinstance(term, DomainConditionConfig)
        ]
        for key, domain in named:
            if domain not in self.domains:
                raise ValueError(f"{key}: {domain!r} is not defined{did_you_mean(domain, self.domains)}")
        both = next((name for name in self.rules if name in self.downstream_models), None)
        if both is not None:
            raise ValueError(f"rules.{both}: a downstream model has this name already; routes are told apart by it")
        return self

    def destination_names(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """(key, destinations named there) of every place that names destinations."""
        for name, model in self.downstream_models.items():
            yield f"routing.downstream_models.{name}.destinations", model.destinations
        for name, rule in self.rules.items():
            yield f"routing.rules.{name}.destinations", rule.destinations
        yield "routing.default.destinations", self.default.destinations

    def terms(self) -> Iterator[Any]:
        """Every condition, and every part that takes conditions together, of all domains and rules."""
        for root in [domain.term for domain in self.domains.values()] + [rule.when for rule in self.rules.values()]:
            yield from _walk(root)

    def check_names(self) -> set[str]:
        """The names of audit checks that conditions ask for."""
        return {term.finding for term in self.terms() if isinstance(term, FindingConditionConfig)} - {"any"}


def _walk(term: Any) -> Iterator[Any]:
    """A term and all below it."""
    yield term
    below = term.all if isinstance(term, AllConfig) else term.any if isinstance(term, AnyConfig) else ()
    for part in (term.not_,) if isinstance(term, NotConfig) else below:
        yield from _walk(part)


def _is_dicom_keyword(keyword: str) -> bool:
    from pydicom.datadict import tag_for_keyword  # five thousand entries, which most configurations never ask for

    return tag_for_keyword(keyword) is not None


def _nearest_keyword(keyword: str) -> str:
    from pydicom._dicom_dict import DicomDictionary

    return did_you_mean(keyword, [*BY_KEYWORD, *SERIES_FACTS, *(entry[4] for entry in DicomDictionary.values())])
