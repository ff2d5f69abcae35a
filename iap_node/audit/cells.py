"""Cells that no spreadsheet runs, and pages that turn no text around. Used by whoever writes CSV or HTML."""

from __future__ import annotations

import re

# What a spreadsheet takes for a formula (OWASP, CSV Injection), unless it is a plain number. Where the comma is the
# decimal sign, spreadsheets take the semicolon for the separator, within the quotes of others too.
_BEGINS = r"[=+\-@\uff1d\uff0b\uff0d\uff20]"
_FORMULA = re.compile(rf"\s*{_BEGINS}|[\t\r\n]")
_FORMULA_IN_ANOTHER_CELL = re.compile(rf'(;[\s"]*)(?={_BEGINS})')
_NUMBER = re.compile(r"[+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?", re.ASCII)


def harmless_cell(value: object) -> str:
    """Text that no spreadsheet runs: a leading apostrophe where it might, control characters replaced."""
    if value is None:
        return ""
    text = str(value)
    if _FORMULA.match(text) and not _NUMBER.fullmatch(text):
        text = f"'{text}"
    text = _FORMULA_IN_ANOTHER_CELL.sub(r"\1'", text)
    return "".join(character if character.isprintable() else "?" for character in text)


def harmless_page(text: str) -> str:
    """A page without what is no character to look at: controls, and those that turn the text beside them around."""
    shown = {ord(one): " " if one.isspace() else "\ufffd" for one in set(text) - {"\n"} if not one.isprintable()}
    return text.translate(shown)
