"""All witnesses about one element, brought together: who is for and against what a header says, and what is right.

`hear` takes what the standard, the pixels and the habit raised on their own, and lets each finding know what the
others say of the same element. Called by the worker, and by the audit of a folder; pure functions.

How the suggested value is chosen
---------------------------------
Each witness against the header may take a value for right. The standard derives it from other elements, the habit has
it as this scanner writes it, the pixels estimate it: in this order they know it the more exactly.

1. A value that the standard derives, and that the pixels allow while they are against the header's, is suggested,
   whatever the habit says.
2. Otherwise a value is suggested if no witness is against it. Against it is who takes another value for right, whose
   pixels rule it out, or who holds that the header's value may stand. Pixels that allow both values are for neither.
3. Where the form of a value is at fault (its representation, its unit, its absence, a term that does not exist) nobody
   can hold that it may stand: a scanner that has always written Hz has always been wrong.
4. The habit alone changes nothing: people may have meant to do something else. Nor does what the pixels know by
   association.
5. Where an element that the check compares it with is the one that other witnesses are against, that one is probably
   wrong, and nothing is suggested for this one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from pydicom.datadict import dictionary_description, tag_for_keyword

from iap_node.audit.checks import CHECKS, Check
from iap_node.audit.checks.check import keyword
from iap_node.audit.pixels import WHOLE_HEADER, pixel_testimony
from iap_node.dicom.parameters import BY_KEYWORD, canonical
from iap_node.dicom.protocol import BY_NAME
from iap_node.records import (
    Finding,
    FindingKind,
    HeaderComparison,
    ParameterKind,
    SeriesPrediction,
    Testimony,
    Witness,
)

# What is wrong with the form of a value: that its content may stand says nothing against it.
_FORM = frozenset({FindingKind.MISSING, FindingKind.REPRESENTATION, FindingKind.VALUE, FindingKind.UNIT})
_EXACTNESS = (Witness.STANDARD, Witness.HABIT, Witness.PIXELS)
_NAMES = {Witness.STANDARD: "the standard", Witness.PIXELS: "the pixels", Witness.HABIT: "the scanner's habit"}
_MOST_TESTIMONIES = 8  # kept with a finding
_CHECKS: Mapping[str, Check] = {check.name: check for check in CHECKS}
_N_CHECKS = {  # that look at an element
    element: sum(element in map(keyword, check.elements) for check in CHECKS)
    for element in {keyword(tag) for check in CHECKS for tag in check.elements}
}

Speaks = Callable[[str], Testimony | None]


def hear(
    findings: Iterable[Finding],
    *,
    comparisons: Sequence[HeaderComparison] = (),
    prediction: SeriesPrediction | None = None,
    habit: Speaks = lambda element: None,
    checked: bool = True,
) -> tuple[Finding, ...]:
    """Every finding with the testimonies of all witnesses that know something of its element, and their conclusion.

    Parameters
    ----------
    findings
        Of the standard's checks, the pixels and the habit, in any order. The first of an element and check counts.
    comparisons, prediction
        Header against pixels, and the prediction that they were made with.
    habit
        What the scanner's habit says of an element (DICOM keyword).
    checked
        Whether the standard's checks looked at the headers: their silence is then no objection.

    Returns
    -------
    tuple of Finding
        In the order given; one per element and check. The value suggested is chosen as the module says.
    """
    distinct: dict[tuple[str, str], Finding] = {}
    for one in findings:
        distinct.setdefault((one.element, one.check), one)
    bench = _Bench(tuple(distinct.values()), comparisons, prediction, habit, checked)
    return tuple(bench.judged(one) for one in bench.findings)


class _Partner(NamedTuple):
    """Another element of the same check, and who is against it."""

    element: str
    testimony: Testimony


class _Bench:
    """The witnesses of one series."""

    def __init__(
        self,
        findings: tuple[Finding, ...],
        comparisons: Sequence[HeaderComparison],
        prediction: SeriesPrediction | None,
        habit: Speaks,
        checked: bool,
    ) -> None:
        self.findings = findings
        self._prediction = prediction
        self._habit = habit
        self._checked = checked
        self._pixels: dict[str, Testimony] = {}
        for comparison in comparisons:
            said = pixel_testimony(comparison, prediction)
            if said is not None:
                self._pixels[BY_KEYWORD[comparison.keyword].element] = said

    def judged(self, one: Finding) -> Finding:
        """One finding with what all say of it."""
        own = self._own(one)
        if one.element == WHOLE_HEADER or one.kind is FindingKind.QUESTION:
            others = () if one.element == WHOLE_HEADER else self._others(one)
            return replace(one, testimonies=(*own, *others)[:_MOST_TESTIMONIES], conclusion=_question(one, others))
        others = self._others(one)
        partners = self._partners(one)
        testimonies = (*own, *others)
        suggested, conclusion = self._settle(one, testimonies, partners)
        said = (*testimonies, *(_about_partner(partner) for partner in partners))
        return replace(
            one, testimonies=said[:_MOST_TESTIMONIES], suggested_value=suggested, conclusion=conclusion
        )

    # ------------------------------------------------------------ who says what

    def _own(self, one: Finding) -> tuple[Testimony, ...]:
        """What the witness that raised it says itself."""
        if one.testimonies:
            return one.testimonies
        said = self._pixels.get(one.element) if one.raised_by is Witness.PIXELS else None
        if said is not None and said.against and one.kind is not FindingKind.QUESTION:
            return (replace(said, value=one.suggested_value or said.value),)
        return (Testimony(one.raised_by, True, one.evidence, None, one.suggested_value or ""),)

    def _others(self, one: Finding) -> tuple[Testimony, ...]:
        """What others found against the element, and what those say who found nothing."""
        same = [other for other in self.findings if other.element == one.element and other is not one]
        said = [
            testimony for other in same if other.kind is not FindingKind.QUESTION for testimony in self._own(other)
        ]
        spoken = {one.raised_by, *(testimony.witness for testimony in said)}
        for witness in Witness:
            if witness not in spoken and (testimony := self._asked(witness, one)) is not None:
                said.append(testimony)
        return tuple(dict.fromkeys(said))

    def _asked(self, witness: Witness, one: Finding) -> Testimony | None:
        if witness is Witness.PIXELS:
            return self._pixels.get(one.element)
        if witness is Witness.HABIT:
            return _of_what_is_written(one, self._habit(one.element))
        n_checks = _N_CHECKS.get(one.element, 0)
        if not self._checked or not n_checks or not one.raw:
            return None
        checks = "check looks at it and has" if n_checks == 1 else "checks look at it and have"
        return Testimony(Witness.STANDARD, False, f"{n_checks} {checks} no objection")

    def _partners(self, one: Finding) -> tuple[_Partner, ...]:
        """Other elements that the check compares this one with, where another witness is against them."""
        check = _CHECKS.get(one.check)
        if check is None or one.kind is not FindingKind.CONTRADICTION:
            return ()
        found = []
        for element in map(keyword, check.elements):
            if element == one.element:
                continue
            for said in (self._pixels.get(element), self._habit(element)):
                if said is not None and said.against:
                    found.append(_Partner(element, said))
        return tuple(found)

    # ------------------------------------------------------------ what follows

    def _settle(
        self, one: Finding, testimonies: Sequence[Testimony], partners: Sequence[_Partner]
    ) -> tuple[str | None, str]:
        """The suggested value and the conclusion."""
        against = [said for said in testimonies if said.against]
        accusers = {said.witness for said in against}
        defenders: set[Witness] = set()
        if one.kind not in _FORM:  # the standard's silence is no defence: it seldom can tell
            defenders = {said.witness for said in testimonies if not said.against} - {Witness.STANDARD}
        if partners and accusers == {one.raised_by}:
            names = " and ".join(_title(element) for element in dict.fromkeys(item.element for item in partners))
            whose = _listed({item.testimony.witness for item in partners})
            return None, f"{names} is probably what is wrong, by the word of {whose}, and not this element"
        values = [
            (said.value, said.witness)
            for said in sorted(against, key=lambda said: _EXACTNESS.index(said.witness))
            if said.value
        ]
        own_first = sorted(values, key=lambda pair: pair[0] != one.suggested_value)
        contested: set[Witness] = set()
        for value, witness in own_first:
            support = {said.witness for said in against if said.value and _same(one.element, said.value, value)}
            opposed = {said.witness for said in against if said.value} - support
            if self._pixels_allow(one.element, value) is True:
                opposed.discard(Witness.PIXELS)
                if Witness.PIXELS in accusers:
                    support.add(Witness.PIXELS)
                opposed |= defenders - {Witness.PIXELS}
            else:
                opposed |= defenders
                if self._pixels_allow(one.element, value) is False:
                    opposed.add(Witness.PIXELS)
                    support.discard(Witness.PIXELS)
            if {Witness.STANDARD, Witness.PIXELS} <= support and Witness.STANDARD not in opposed:
                return _exactest(one.element, value, values), f"{_agreed(support)}: probably {value}"
            if opposed:
                contested |= opposed | {witness}
                continue
            if accusers == {Witness.HABIT}:
                break  # rule 4
            return _exactest(one.element, value, values), f"{_agreed(support)}: probably {value}"
        return None, _undecided(one, accusers, defenders, contested)

    def _pixels_allow(self, element: str, value: str) -> bool | None:
        """Whether the pixels allow a value; None where they know nothing of it."""
        parameter = BY_KEYWORD.get(element)
        prediction = self._prediction
        if parameter is None or prediction is None or not prediction.speaks or parameter.element != parameter.keyword:
            return None
        pixels = next((item for item in prediction.parameters if item.keyword == element), None)
        meant = canonical(element, value)
        if pixels is None or pixels.by_association or meant is None:
            return None
        if pixels.kind is ParameterKind.CONTINUOUS:
            if pixels.interval is None:
                return None
            low, high = pixels.interval
            return low <= float(meant) <= high
        labels = [label for label, _ in pixels.probabilities]
        label = parameter.match(meant, labels)
        if label is None or not pixels.prediction_set:
            return None
        return bool(parameter.equivalent(label, labels) & set(pixels.prediction_set))


def _of_what_is_written(one: Finding, said: Testimony | None) -> Testimony | None:
    """The habit defends the value that most images have: where the finding is about another one, that is against it."""
    if said is None or said.against or not said.value or not one.raw:
        return said
    usual = (said.value, *said.value.split("\\"))  # of several echo times each
    return said if any(_same(one.element, value, one.raw) for value in usual) else replace(said, against=True)


def _same(element: str, one: str, other: str) -> bool:
    """Whether two values of an element, as written or in canonical form, mean the same."""
    known = BY_NAME.get(element)
    if known is not None:
        meanings = [known.meaning(known.canonical(text) or text) for text in (one, other)]
        return known.same(meanings[0], meanings[1]) or known.same(meanings[1], meanings[0])
    return " ".join(one.casefold().split()) == " ".join(other.casefold().split())


def _exactest(element: str, value: str, values: Sequence[tuple[str, Witness]]) -> str:
    """The value as it is written by the witness that knows it best; `values` are in that order."""
    return next(other for other, _ in values if _same(element, other, value))


# ---------------------------------------------------------------- sentences


def _about_partner(partner: _Partner) -> Testimony:
    said = partner.testimony
    statement = f"of {_title(partner.element)}, which this is compared with: {said.statement}"
    return Testimony(said.witness, False, statement)


def _question(one: Finding, others: Sequence[Testimony]) -> str:
    if one.element == WHOLE_HEADER:
        return "the header as a whole is in doubt: see whose images these are before any value is changed"
    against = {said.witness for said in others if said.against}
    if against:
        return f"worth a look: {_listed(against)} {_is(against)} against it too"
    return "worth a look, no more: what is known by association only is no evidence"


def _agreed(witnesses: set[Witness]) -> str:
    return f"by {_listed(witnesses)}" if len(witnesses) == 1 else f"{_listed(witnesses)} agree"


def _undecided(one: Finding, accusers: set[Witness], defenders: set[Witness], contested: set[Witness]) -> str:
    if defenders:
        return (
            f"{_listed(accusers)} {_is(accusers)} against the header, {_listed(defenders)} for it: "
            "nothing is suggested"
        )
    if len(contested) > 1:
        return f"the header is probably wrong, but {_listed(contested)} disagree about what is right"
    if accusers == {Witness.HABIT}:
        return "unlike what this scanner usually writes; that alone is no reason to change it"
    if len(accusers) > 1:
        return f"the header is probably wrong, by the word of {_listed(accusers)}; nobody knows what is right"
    if one.kind is FindingKind.MISSING:
        return "nobody knows what should stand there"
    return f"by {_listed(accusers)} alone; nobody knows what is right"


def _is(witnesses: set[Witness]) -> str:
    return "is" if witnesses == {Witness.STANDARD} or witnesses == {Witness.HABIT} else "are"


def _listed(witnesses: Iterable[Witness]) -> str:
    names = [_NAMES[witness] for witness in Witness if witness in set(witnesses)]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _title(element: str) -> str:
    tag = tag_for_keyword(element)
    return element if tag is None else dictionary_description(tag)
