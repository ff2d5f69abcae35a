"""Regular expressions of rules: what they find, and what is refused before it can do harm."""

from __future__ import annotations

import pytest

from iap_node.config.patterns import Pattern


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [
        ("^t1", "T1 fl3d", True),
        ("dyn|dce", "T1 DCE", True),
        ("^dyn$", "T1 dyn", False),
        (r"\bres\b", "a res b", True),
        ("a{3}", "AAA", True),
        ("ä", "Ä", True),
    ],
)
def test_a_pattern_is_found_anywhere_and_without_case(pattern: str, text: str, found: bool) -> None:
    assert Pattern(pattern).matches(text) is found


@pytest.mark.parametrize(
    ("pattern", "found"),
    [("(a+)+$", False), ("(a|a)*$", True), ("(.*a){20}$", False), ("^(([a-z])+.)+[A-Z]([a-z])+$", False)],
)
def test_patterns_that_backtrack_for_ever_elsewhere_are_answered_here(pattern: str, found: bool) -> None:
    assert Pattern(pattern).matches("a" * 100_000 + "!") is found


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        (r"(a)\1", "backreferences"),
        ("(?=a)b", "look-around"),
        ("a)|(b", "unopened group"),
        ("(", "unclosed group"),
        ("x{1000}{1000}", "size limit"),
        ("x" * 513, "one_of"),
    ],
)
def test_what_has_no_linear_time_or_no_meaning_is_refused_with_the_reason(pattern: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Pattern(pattern)
