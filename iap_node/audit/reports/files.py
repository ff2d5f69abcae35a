"""Where reports are written: each file whole or not at all. Called by the commands and the scheduler."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Protocol, TypeVar

Figures = TypeVar("Figures", contravariant=True)

MOST_CHARACTERS = 100  # of a name: file systems take 255 bytes
_UNSAFE = re.compile(r"[^0-9A-Za-z.-]+")


class Report(Protocol[Figures]):
    """A module of this package: what it makes of its figures."""

    def as_html(self, figures: Figures, at: datetime, /) -> str:
        """A page."""

    def as_csv(self, figures: Figures, /) -> str:
        """A table."""

    def as_json(self, figures: Figures, at: datetime, /) -> str:
        """Everything."""


def forms(report: Report[Figures], figures: Figures, at: datetime) -> dict[str, str]:
    """A report by suffix. JSON comes last: where its file is, the others are."""
    return {"html": report.as_html(figures, at), "csv": report.as_csv(figures), "json": report.as_json(figures, at)}


def safe_name(*parts: str) -> str:
    """A file's name made of parts that come from outside: no separators, nothing hidden, nothing that a shell reads."""
    joined = "-".join(_UNSAFE.sub("_", part).strip("._-") or "unknown" for part in parts)
    return joined[:MOST_CHARACTERS].rstrip("._-")


def write(folder: Path, name: str, contents: Mapping[str, str]) -> list[Path]:
    """Write a report in several forms, by suffix without the dot, in their order; makes the folder. The files.

    Raises
    ------
    OSError
        The folder cannot be written to. What was there before is unharmed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return [_write(folder / f"{name}.{suffix}", content) for suffix, content in contents.items()]


def _write(path: Path, content: str) -> Path:
    part = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with part.open("x", encoding="utf-8", errors="replace", newline="") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path
