"""What the commands print: tables for people, JSON for programs; hostile header text made harmless.

Header text comes from outside: control characters are replaced before they reach a terminal, and rich markup in it
is not interpreted.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from enum import Enum
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

PAGE_WIDTH_WHEN_PIPED = 200


def printable(value: object) -> str:
    """A value as one line of harmless text: control characters become `?`, None the empty text."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    return "".join(character if character.isprintable() else "?" for character in str(value))


def complain(text: object) -> None:
    """Say on standard error why something cannot be done; paths and header text may be in it."""
    lines = f"iap-node: {text}".split("\n")
    print("\n".join(map(printable, lines)), file=sys.stderr)


def console() -> Console:
    """Standard output for people; wide enough for a table when it is not a terminal."""
    width = None if sys.stdout.isatty() else PAGE_WIDTH_WHEN_PIPED
    return Console(width=width, highlight=False, soft_wrap=False)


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], empty: str) -> None:
    """One table; `empty` instead when there is no row."""
    # as Text: in a str, rich would follow its own markup, links included
    table = Table(title=Text(printable(title), style="table.title"), title_justify="left", header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*[cell if isinstance(cell, Text) else Text(printable(cell)) for cell in row])
    if table.row_count:
        console().print(table)
    else:
        console().print(Text(empty))


def print_models(models: Iterable[tuple[str | None, str | None]]) -> None:
    """One line per model that spoke, with what it was trained on; (model id, training data), None passed over."""
    for model_id, training_data in sorted({(one, other or "") for one, other in models if one}):
        console().print(Text(f"pixels judged by {printable(model_id)}, {printable(training_data)}"))


def print_json(value: object) -> None:
    """Any record, or a list of them, as JSON on standard output."""
    print(json.dumps(as_json(value), indent=2, ensure_ascii=True))


def as_json(value: Any) -> Any:
    """Records, enums and times as what JSON knows."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: as_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, dict):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [as_json(item) for item in value]
    return value
