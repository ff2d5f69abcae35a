"""How reports become text: pages by template, tables, JSON. Called by the reports beside this module."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime
from enum import Enum
from functools import cache
from pathlib import PurePath
from typing import Any

import jinja2
from pydicom.datadict import dictionary_description, tag_for_keyword

from iap_node import __version__
from iap_node.audit.cells import harmless_cell, harmless_page
from iap_node.dicom.parameters import BY_KEYWORD

LONGEST_WORD = 40  # characters; model names and scan options have fewer


def page(template: str, at: datetime, **content: Any) -> str:
    """A page that needs nothing else: for the screen, and for paper.

    Raises
    ------
    jinja2.UndefinedError
        The template asks for what `content` does not have.
    """
    return harmless_page(_pages().get_template(template).render(at=at, version=__version__, **content))


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """CSV (RFC 4180) with one line of column names; no cell is taken for a formula."""
    text = io.StringIO(newline="")
    lines = csv.writer(text)
    lines.writerow(columns)
    lines.writerows([harmless_cell(plain(cell)) for cell in row] for row in rows)
    return text.getvalue()


def document(at: datetime, content: dict[str, Any]) -> str:
    """JSON in ASCII, so that no reader has to guess; who made it and when stand first."""
    made = {"made_by": f"iap-node {__version__}", "made_at": at.isoformat(), **content}
    return json.dumps(plain(made), indent=1, ensure_ascii=True, allow_nan=False)


def plain(value: Any) -> Any:
    """Records, enums, paths and times as what JSON knows; numbers that are not finite as None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(plain(key)): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    return value


def tag_text(keyword: str) -> str:
    """(gggg,eeee) of an element; empty where the dictionary has none of that name."""
    tag = tag_for_keyword(keyword)
    return "" if tag is None else f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


def title(keyword: str) -> str:
    """An element's name for people."""
    if keyword in BY_KEYWORD:  # one of them is computed, and in no dictionary
        return BY_KEYWORD[keyword].title
    tag = tag_for_keyword(keyword)
    return keyword if tag is None else dictionary_description(tag)


def percent(share: float | None) -> str:
    """A share for people; what is nearly all or nearly nothing is not rounded to all or nothing."""
    if share is None:
        return ""
    if 0 < share < 0.001:
        return "< 0.1 %"
    if 0.999 < share < 1:
        return "> 99.9 %"
    return f"{100 * share:.3g} %" if share < 1 else "100 %"


def number(value: float | None) -> str:
    """A number for people, three digits of it."""
    return "" if value is None else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def moment(at: datetime | None) -> str:
    """A time for people, in UTC."""
    return "" if at is None else at.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def day(at: datetime | date | None) -> str:
    """A day for people, in UTC."""
    if isinstance(at, datetime):
        at = at.astimezone(UTC)
    return "" if at is None else at.strftime("%Y-%m-%d")


def unbroken(text: str | None) -> bool:
    """Whether a text has a word that fits no column."""
    return any(len(word) > LONGEST_WORD for word in (text or "").split())


@cache
def _pages() -> jinja2.Environment:
    pages = jinja2.Environment(
        loader=jinja2.PackageLoader("iap_node.audit.reports", "pages"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.tests["unbroken"] = unbroken
    pages.filters.update(tag=tag_text, title=title, percent=percent, number=number, moment=moment, day=day)
    return pages
