"""Cells of CSV files that no spreadsheet runs. Used by whoever writes findings or reports as CSV."""

from __future__ import annotations

import re

# What a spreadsheet takes for a formula (OWASP, CSV Injection), unless it is a plain number.
_FORMULA = re.compile(r"[=+\-@\t\r\n]")
_NUMBER = re.compile(r"[+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?", re.ASCII)


def harmless_cell(value: object) -> str:
    """Text that no spreadsheet runs: a leading apostrophe where it might, control characters replaced."""
    if value is None:
        return ""
    text = str(value)
    if _FORMULA.match(text) and not _NUMBER.fullmatch(text):
        text = f"'{text}"
    return "".join(character if character.isprintable() else "?" for character in text)
