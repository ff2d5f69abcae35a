"""Lines of a crontab in the configuration."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from iap_node.config import ReportsConfig, parse_config
from iap_node.config.crontab import crontab
from iap_node.errors import ConfigError

MONDAY = datetime(2026, 3, 2, tzinfo=UTC)


@pytest.mark.parametrize(
    ("line", "fires"),
    [
        ("0 6 1 * *", "2026-04-01T06:00"),
        ("30 5 * * 1", "2026-03-02T05:30"),
        ("0 0 * * 0", "2026-03-08T00:00"),  # Sunday, as cron counts and APScheduler does not
        ("0 0 * * 7", "2026-03-08T00:00"),
        ("0 0 * * 3-5", "2026-03-04T00:00"),
        ("0 0 * * tue,sat", "2026-03-03T00:00"),
        ("*/20 1 * * *", "2026-03-02T01:00"),
    ],
)
def test_line_fires_when_cron_would_in_utc(line: str, fires: str) -> None:
    assert crontab(line).get_next_fire_time(None, MONDAY).isoformat() == f"{fires}:00+00:00"


@pytest.mark.parametrize("line", ["", "0 6 1", "61 * * * *", "0 6 1 * 5-1", "0 6 1 * */2", "0 6 1 * 8", "every month"])
def test_what_is_no_line_is_refused_by_name_of_its_key(line: str) -> None:
    with pytest.raises(ConfigError, match=r"audit\.reports\.cron: .*minute, hour, day, month and weekday"):
        parse_config({"audit": {"reports": {"cron": line}}}, Path("/etc/iap"))


def test_default_is_a_line() -> None:
    assert crontab(ReportsConfig().cron) is not None
