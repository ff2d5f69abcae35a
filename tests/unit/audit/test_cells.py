"""No cell of a table is run, whichever character a spreadsheet takes for the separator; numbers stay numbers."""

from __future__ import annotations

import csv
import io

import pytest

from iap_node.audit.cells import harmless_cell

FORMULAS = ("=1+1", "+1+cmd|'x'!A1", "-1+1", "@SUM(A1)", '=HYPERLINK("http://x";"y")', "＝1+1", "＠SUM(A1)")


def opened(cell: str, written: str, read: str) -> list[str]:
    """The cells of a line that is written with one separator and opened by a spreadsheet that takes another."""
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=written).writerow(["a", harmless_cell(cell), "b"])
    return next(csv.reader([text.getvalue()], delimiter=read))


@pytest.mark.parametrize("read", [",", ";", "\t"])
@pytest.mark.parametrize("formula", FORMULAS)
@pytest.mark.parametrize("before", ["", "x;", 'x";', "x; ", "x;;", " ", 'x;"', "\t", "x\t", "\r\n", "1,", 'x",'])
def test_no_spreadsheet_runs_a_cell_whatever_it_takes_for_the_separator(before: str, formula: str, read: str) -> None:
    for cell in opened(before + formula, ",", read):
        assert not cell.strip().startswith(("=", "+", "-", "@", "＝", "＋", "－", "＠")), cell


@pytest.mark.parametrize("text", ["-2.5", "+1e-3", "SIEMENS", "a; b", "1\\-2", "Köln", "PFP;FS", "2-5", "a=b"])
def test_what_is_no_formula_stays_as_it_is(text: str) -> None:
    assert harmless_cell(text) == text
