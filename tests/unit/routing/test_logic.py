"""Kleene's logic: its laws, over all truths there are."""

from __future__ import annotations

import itertools

import pytest

from iap_node.records import Truth
from iap_node.routing.logic import conjunction, disjunction, negation

TRIPLES = list(itertools.product(Truth, repeat=3))


@pytest.mark.parametrize("truths", TRIPLES)
def test_de_morgan_holds(truths: tuple[Truth, ...]) -> None:
    assert negation(conjunction(truths)) is disjunction(map(negation, truths))
    assert negation(disjunction(truths)) is conjunction(map(negation, truths))


@pytest.mark.parametrize("truths", TRIPLES)
def test_what_is_decided_without_an_unknown_value_stays_so_whatever_it_is(truths: tuple[Truth, ...]) -> None:
    """Put true and false in the place of each unknown: a decided result never turns round."""
    choices = [(Truth.TRUE, Truth.FALSE) if truth is Truth.UNKNOWN else (truth,) for truth in truths]
    for combine in (conjunction, disjunction):
        decided = combine(truths)
        if decided is not Truth.UNKNOWN:
            assert {combine(known) for known in itertools.product(*choices)} == {decided}
        else:
            assert {combine(known) for known in itertools.product(*choices)} == {Truth.TRUE, Truth.FALSE}


def test_nothing_at_all_is_all_true_and_none_true() -> None:
    assert conjunction(()) is Truth.TRUE
    assert disjunction(()) is Truth.FALSE


def test_unknown_is_neither_itself_nor_its_opposite() -> None:
    assert negation(Truth.UNKNOWN) is Truth.UNKNOWN
    assert conjunction([Truth.UNKNOWN, negation(Truth.UNKNOWN)]) is Truth.UNKNOWN
