"""Logs: structlog on standard error, one event per line, readable or JSON; standard output is for results."""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog

from iap_node.cli.output import printable
from iap_node.config import LogConfig

_LINES = frozenset({"exception", "stack"})  # of an event: what stands on lines of its own


def start_logging(config: LogConfig, role: str = "") -> None:
    """Configure logging for this process; every event carries the role, if it has one."""
    level = getattr(logging, config.level.upper())
    readable = config.format == "console" or (config.format == "auto" and sys.stderr.isatty())
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()) if readable else structlog.processors.JSONRenderer()
    )

    def make_harmless(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        return {key: _harmless(value, key in _LINES) for key, value in event.items()}

    def name_role(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        return {"role": role, **event} if role else event  # the supervisor speaks of other roles

    structlog.configure(
        processors=[
            name_role,
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            *((make_harmless,) if readable else ()),  # JSON escapes what a terminal would obey
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    # libraries speak through the standard module; only their warnings are worth a line
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_HarmlessFormatter("%(levelname)s %(name)s %(message)s"))
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[handler])
    # a run that is still under way when the next is due is no news: the next one does what is left
    logging.getLogger("apscheduler").setLevel(logging.ERROR)


def _harmless(value: Any, has_lines: bool = False) -> Any:
    """Text that no terminal obeys; a traceback keeps its lines."""
    if not isinstance(value, str):
        return value  # shown by its repr, which escapes
    return "\n".join(map(printable, value.split("\n"))) if has_lines else printable(value)


class _HarmlessFormatter(logging.Formatter):
    """What libraries say of what peers sent them, on one line; a traceback keeps its lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # the name is logging's
        return printable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:
        return str(_harmless(super().formatException(ei), has_lines=True))
