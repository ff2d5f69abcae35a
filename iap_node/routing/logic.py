"""Kleene's three-valued logic: unknown is what could still be either, so learning more never turns a result round.

Called by the expressions of the routing rules. S. C. Kleene, Introduction to Metamathematics (1952), section 64.
"""

from __future__ import annotations

from collections.abc import Iterable

from iap_node.records import Truth


def negation(truth: Truth) -> Truth:
    """Not: unknown stays unknown."""
    return {Truth.TRUE: Truth.FALSE, Truth.FALSE: Truth.TRUE}.get(truth, Truth.UNKNOWN)


def conjunction(truths: Iterable[Truth]) -> Truth:
    """All: one false makes it false, else one unknown makes it unknown."""
    result = Truth.TRUE
    for truth in truths:
        if truth is Truth.FALSE:
            return Truth.FALSE
        if truth is Truth.UNKNOWN:
            result = Truth.UNKNOWN
    return result


def disjunction(truths: Iterable[Truth]) -> Truth:
    """Any: one true makes it true, else one unknown makes it unknown."""
    result = Truth.FALSE
    for truth in truths:
        if truth is Truth.TRUE:
            return Truth.TRUE
        if truth is Truth.UNKNOWN:
            result = Truth.UNKNOWN
    return result


def truth_of(value: bool) -> Truth:
    """What is known, as a truth."""
    return Truth.TRUE if value else Truth.FALSE
