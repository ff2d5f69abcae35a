"""What the tests of the drill share."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.acceptance.drill.count import Count


@pytest.fixture
def report(record_property: Callable[[str, object], None]) -> Callable[[Count], None]:
    """Says what a campaign did (`pytest -s`, JUnit's properties) and fails on what it found."""

    def say(count: Count) -> None:
        print(f"\ncrash drill: {count}")
        record_property("crash drill", str(count))
        assert not count.faults, "\n".join(count.faults[:20])

    return say
