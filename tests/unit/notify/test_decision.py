"""When a channel is told what; no database, no network."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from iap_node.config.notifications import NotificationsConfig, TroubleKind
from iap_node.notify.decision import Told, is_quiet, news
from iap_node.notify.message import Event, Trouble

NOON = datetime(2026, 3, 31, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
KIND = TroubleKind.DESTINATION_FAILING


def decide(
    now_wrong: dict[str, int], was_told: dict[str, int], hours_ago: float | None = 2.0, **config: object
) -> Event | None:
    trouble = Trouble(KIND, now_wrong, "", "") if now_wrong else None
    at = None if hours_ago is None else NOON - hours_ago * HOUR
    return news(KIND, trouble, Told(was_told, at, at), NotificationsConfig.model_validate(config), NOON)


@pytest.mark.parametrize(
    ("now_wrong", "was_told", "event"),
    [
        ({}, {}, None),
        ({"a": 1}, {}, Event.BEGUN),
        ({"a": 1}, {"a": 1}, None),
        ({"a": 3}, {"a": 2}, None),
        ({"a": 4}, {"a": 2}, Event.WORSE),
        ({"a": 1, "b": 1}, {"a": 1}, Event.WORSE),
        ({"a": 1}, {"a": 1, "b": 1}, Event.BETTER),
        ({"a": 1, "c": 1}, {"a": 1, "b": 1}, Event.WORSE),
        ({}, {"a": 1}, Event.OVER),
    ],
)
def test_only_what_is_new_is_told(now_wrong: dict[str, int], was_told: dict[str, int], event: Event | None) -> None:
    assert decide(now_wrong, was_told) is event


def test_a_kind_that_comes_and_goes_is_told_once_in_the_interval_but_its_end_at_once() -> None:
    assert decide({"a": 1}, {}, hours_ago=0.9) is None
    assert decide({"a": 9}, {"a": 1}, hours_ago=0.9) is None
    assert decide({}, {"a": 1}, hours_ago=0.1) is Event.OVER
    assert decide({"a": 1}, {}, hours_ago=0.9, interval_min=30.0) is Event.BEGUN


def test_what_still_stands_is_told_again_after_a_day_unless_nobody_wants_that() -> None:
    assert decide({"a": 1}, {"a": 1}, hours_ago=24) is Event.STILL
    assert decide({"a": 1}, {"a": 1}, hours_ago=24, repeat_h=None) is None


def test_nothing_is_told_in_quiet_hours_save_what_is_exempt() -> None:
    assert decide({"a": 1}, {}, quiet_hours="11:00-13:00") is None
    assert decide({}, {"a": 1}, quiet_hours="11:00-13:00") is None
    assert decide({"a": 1}, {}, quiet_hours="11:00-13:00", quiet_exempt=[KIND]) is Event.BEGUN


@pytest.mark.parametrize(
    ("hours", "zone", "quiet"),
    [
        ("11:00-12:00", "UTC", False),
        ("12:00-12:01", "UTC", True),
        ("22:00-06:00", "UTC", False),
        ("11:00-06:00", "UTC", True),
        ("14:00-15:00", "Europe/Zurich", True),  # summer time: two hours ahead
    ],
)
def test_quiet_hours_are_those_of_the_clock_on_the_wall(hours: str, zone: str, quiet: bool) -> None:
    assert is_quiet(NotificationsConfig(quiet_hours=hours, time_zone=zone), NOON) is quiet
