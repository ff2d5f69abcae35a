"""Logs: structlog on standard error, one event per line, readable or JSON; standard output is for results."""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog

from iap_node.config import LogConfig


def start_logging(config: LogConfig, role: str = "") -> None:
    """Configure logging for this process; every event carries the role, if it has one."""
    level = getattr(logging, config.level.upper())
    readable = config.format == "console" or (config.format == "auto" and sys.stderr.isatty())
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()) if readable else structlog.processors.JSONRenderer()
    )

    def name_role(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        return {"role": role, **event} if role else event  # the supervisor speaks of other roles

    structlog.configure(
        processors=[
            name_role,
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    # libraries speak through the standard module; only their warnings are worth a line
    logging.basicConfig(
        level=max(level, logging.WARNING), stream=sys.stderr, format="%(levelname)s %(name)s %(message)s"
    )
    # a run that is still under way when the next is due is no news: the next one does what is left
    logging.getLogger("apscheduler").setLevel(logging.ERROR)
