"""The configuration's `notifications` section: whom the node tells that something is wrong, how, and how often."""

from __future__ import annotations

import ipaddress
import re
from datetime import time
from enum import StrEnum
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, field_validator, model_validator

from iap_node.config.section import Section

_HOURS = re.compile(r"([0-2][0-9]):([0-5][0-9])-([0-2][0-9]):([0-5][0-9])")
_ADDRESS = re.compile(r"[^\s@<>,;:\"]+@[^\s@<>,;:\"]+")


class TroubleKind(StrEnum):
    """What the node tells about. Each is a condition that begins and ends, save those in `HAPPENS_ONCE`."""

    DEAD_LETTERS = "dead_letters"
    DESTINATION_FAILING = "destination_failing"
    DISK_LOW = "disk_low"
    QUARANTINE_GROWN = "quarantine_grown"
    MODEL_DRIFT = "model_drift"
    SERIES_HELD = "series_held"
    TRAINING_ENDED = "training_ended"  # with a candidate, or without one and why


HAPPENS_ONCE = frozenset({TroubleKind.TRAINING_ENDED})


class EmailConfig(Section):
    """Where e-mail is handed over (RFC 5321), and to whom it goes."""

    host: str
    port: int = Field(587, ge=1, le=65535)
    security: Literal["starttls", "tls", "none"] = "starttls"
    sender: str
    recipients: tuple[str, ...] = Field(min_length=1)
    user: str | None = None
    password_file: Path | None = None
    ca: Path | None = None  # None: the system's
    timeout_s: float = Field(20.0, gt=0, le=60)

    @field_validator("sender")
    @classmethod
    def _address(cls, value: str) -> str:
        if _ADDRESS.fullmatch(value) is None:
            raise ValueError(f"{value!r} is no e-mail address: write name@host")
        return value

    @field_validator("recipients")
    @classmethod
    def _addresses(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(cls._address(one) for one in value)

    @model_validator(mode="after")
    def _no_password_in_clear(self) -> EmailConfig:
        if (self.user is None) != (self.password_file is None):
            raise ValueError("user and password_file go together")
        if self.security == "none" and self.user is not None and not is_this_machine(self.host):
            raise ValueError("security: none would send the password in clear; use starttls or tls")
        return self


class WebhookConfig(Section):
    """Where JSON is posted, signed with a secret that both sides know."""

    url: str
    secret_file: Path
    ca: Path | None = None  # None: the system's
    timeout_s: float = Field(20.0, gt=0, le=60)

    @field_validator("url")
    @classmethod
    def _https(cls, value: str) -> str:
        parts = urlsplit(value)
        if not parts.hostname or (
            parts.scheme != "https" and not (parts.scheme == "http" and is_this_machine(parts.hostname))
        ):
            raise ValueError("a webhook's URL begins with https://")
        return value


class NotificationsConfig(Section):
    """Whom the node tells that something is wrong."""

    email: EmailConfig | None = None
    webhook: WebhookConfig | None = None
    kinds: tuple[TroubleKind, ...] = tuple(TroubleKind)
    interval_min: float = Field(60.0, ge=0)
    repeat_h: float | None = Field(24.0, gt=0)
    quiet_hours: str | None = None
    time_zone: str = "UTC"
    quiet_exempt: tuple[TroubleKind, ...] = (TroubleKind.DISK_LOW,)
    destination_wait_min: float = Field(30.0, gt=0)
    held_wait_min: float = Field(60.0, ge=0)
    disk_full_in_days: float = Field(3.0, gt=0)
    drift_days: int = Field(30, ge=1)

    @field_validator("quiet_hours")
    @classmethod
    def _from_until(cls, value: str | None) -> str | None:
        if value is not None:
            _hours(value)
        return value

    @field_validator("time_zone")
    @classmethod
    def _known(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (OSError, ValueError, ZoneInfoNotFoundError) as error:
            raise ValueError(f"{value!r} is no time zone; write one as Europe/Zurich") from error
        return value

    @property
    def enabled(self) -> bool:
        """Whether anybody is told."""
        return self.email is not None or self.webhook is not None

    @property
    def quiet(self) -> tuple[time, time] | None:
        """From when until when the clock on the wall of `time_zone` says to be quiet; None: never."""
        return None if self.quiet_hours is None else _hours(self.quiet_hours)


def is_this_machine(host: str) -> bool:
    """Whether a host is the machine itself: no wire carries what is said to it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _hours(text: str) -> tuple[time, time]:
    found = _HOURS.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} are no hours: write 22:00-06:00")
    begin_h, begin_min, end_h, end_min = map(int, found.groups())
    if max(begin_h, end_h) > 23 or (begin_h, begin_min) == (end_h, end_min):
        raise ValueError(f"{text!r} are no hours: write 22:00-06:00")
    return time(begin_h, begin_min), time(end_h, end_min)
