"""Logs: one event per line, whatever other processes write to the same stream."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

import pytest
import structlog

from iap_node.cli.logs import start_logging
from iap_node.config import LogConfig


class Stream:
    """Standard error, one entry per write: what is written at once no other process can break up."""

    def __init__(self) -> None:
        self.writes: list[str] = []

    def write(self, text: str) -> int:
        self.writes.append(text)
        return len(text)

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return False


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def test_an_event_and_the_end_of_its_line_are_written_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Stream()
    monkeypatch.setattr(sys, "stderr", stream)
    start_logging(LogConfig(format="json"), "listen")
    structlog.get_logger("test").info("something happened", port=11112)
    (line,) = stream.writes
    assert line.endswith("\n")
    event = json.loads(line)
    assert (event["role"], event["event"], event["port"]) == ("listen", "something happened", 11112)
