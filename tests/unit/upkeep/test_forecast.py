"""When the disk is full: arithmetic that people plan by."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iap_node.upkeep.forecast import Forecast, Ingest, Outflow, forecast, size_text

GB = 10**9


def steady(gb_per_day: int, observed_days: float = 30.0) -> Ingest:
    return Ingest(gb_per_day * GB, 7 * gb_per_day * GB, observed_days)


def full(
    free_gb: float, ingest: Ingest, outflow: Outflow | None = None, kept_gb: float = 0, reserve: int = 0
) -> Forecast:
    return forecast(int(free_gb * GB), reserve * GB, int(kept_gb * GB), ingest, outflow)


def test_the_text_says_when_and_at_which_rate() -> None:
    answer = full(369, steady(41))
    assert answer.full_in_days == pytest.approx(9.0)
    assert answer.text == "full in about 9 days at 41 GB a day"


def test_the_reserve_is_not_room() -> None:
    assert full(100, steady(10), reserve=20).full_in_days == pytest.approx(8.0)


def test_a_disk_whose_free_room_is_the_reserve_is_full_now() -> None:
    answer = full(20, steady(0), reserve=20)
    assert answer.full_in_days == 0.0
    assert answer.text == "full: stores are refused until there is room"


def test_a_node_that_gets_nothing_is_not_filling() -> None:
    answer = full(100, Ingest(0, 0, 0.0))
    assert answer.full_in_days is None
    assert answer.text == "not filling: nothing came in the last week"


def test_a_slow_sender_fills_a_large_disk_in_no_time_worth_naming() -> None:
    answer = full(100_000, steady(1))
    assert answer.full_in_days is None
    assert answer.text == "not full within 10 years at 1.0 GB a day"


def test_hours_are_told_where_days_say_too_little() -> None:
    assert full(10, steady(48)).text == "full in about 5 hours at 48 GB a day"
    assert full(1, steady(48)).text == "full in about 1 hour at 48 GB a day"


def test_the_last_day_counts_when_it_was_busier_than_the_week() -> None:
    assert Ingest(50 * GB, 70 * GB, 30.0).bytes_per_day == 50 * GB
    assert Ingest(2 * GB, 70 * GB, 30.0).bytes_per_day == 10 * GB


def test_a_week_that_is_not_over_is_divided_by_the_days_it_has() -> None:
    assert Ingest(10 * GB, 30 * GB, 2.0).bytes_per_day == 15 * GB


def test_an_hours_burst_is_not_taken_for_a_day_of_them() -> None:
    assert Ingest(5 * GB, 5 * GB, 1 / 24).bytes_per_day == 5 * GB


def test_retention_by_age_keeps_up_when_its_days_fit_on_the_disk() -> None:
    after_30_days = Outflow(leaving_bytes=[10 * GB] * 30, after_days=30)
    answer = full(50, steady(10), after_30_days, kept_gb=300)
    assert answer.full_in_days is None
    assert answer.text == "not filling: retention keeps up at 10 GB a day"


def test_retention_by_age_comes_too_late_when_its_days_do_not_fit() -> None:
    answer = full(100, steady(10), Outflow(after_days=30))
    assert answer.full_in_days == pytest.approx(10.0)


def test_what_is_here_and_leaves_makes_room_for_what_comes() -> None:
    leaves_first = Outflow(leaving_bytes=[10 * GB] * 5, after_days=30)
    assert full(100, steady(10), leaves_first, kept_gb=50).full_in_days == pytest.approx(15.0)


def test_a_limit_of_size_below_the_disk_keeps_it_from_filling() -> None:
    assert full(100, steady(10), Outflow(max_bytes=150 * GB), kept_gb=100).full_in_days is None
    assert full(100, steady(10), Outflow(max_bytes=500 * GB), kept_gb=100).full_in_days == pytest.approx(10.0)


def test_what_may_never_go_fills_the_disk_in_the_end() -> None:
    half_may_go = Outflow(share_by_age=0.5, after_days=5)
    assert full(100, steady(10), half_may_go).full_in_days == pytest.approx(15.0)  # 5 days of 10, then of 5
    nothing_may_go = Outflow(share_by_size=0.0, max_bytes=10 * GB)
    assert full(100, steady(10), nothing_may_go, kept_gb=10).full_in_days == pytest.approx(10.0)


@given(
    free=st.integers(0, 10**15),
    reserve=st.integers(0, 10**12),
    kept=st.integers(0, 10**15),
    day=st.integers(0, 10**13),
    week=st.integers(0, 10**14),
    share=st.floats(0, 1),
    after=st.none() | st.floats(0.1, 4000),
    limit=st.none() | st.floats(1, 1e15),
)
def test_retention_never_brings_the_end_closer(free, reserve, kept, day, week, share, after, limit) -> None:
    ingest = Ingest(day, week, 7.0)
    without = forecast(free, reserve, kept, ingest).full_in_days
    with_it = forecast(free, reserve, kept, ingest, Outflow((), after, share, limit, share)).full_in_days
    assert without is None or without >= 0
    if without is None:
        assert with_it is None
    elif with_it is not None:
        assert with_it >= without * (1 - 1e-9)


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [(0, "0 B"), (950, "950 B"), (1234, "1.2 kB"), (41_300_000_000, "41 GB"), (9.99e9, "10 GB"), (5e15, "5000 TB")],
)
def test_sizes_are_read_by_people(n_bytes: float, text: str) -> None:
    assert size_text(n_bytes) == text
