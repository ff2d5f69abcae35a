"""`python -m iap_node.audit.checks`: all header checks as a page, which docs/header-checks.md is."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from iap_node.audit.checks.check import Check, keyword
from iap_node.audit.checks.registry import CHECKS

_SHOWN_ELEMENTS = 5  # of a check; the rest is counted


def page(checks: Iterable[Check] = CHECKS) -> str:
    """The checks as Markdown, one table for each module that they stand in."""
    of_module: dict[str, list[Check]] = {}
    for check in checks:
        of_module.setdefault(check.examine.__module__.rpartition(".")[2], []).append(check)
    lines = [
        "# Header checks",
        "",
        f"The {sum(map(len, of_module.values()))} checks that `iap-node audit` and the node apply to headers, as "
        "`python -m iap_node.audit.checks` prints them.",
        "How they were proved stands in `docs/decisions/0013-header-checks.md`.",
    ]
    for module, those in of_module.items():
        lines += ["", f"## {module.replace('_', ' ').capitalize()}", ""]
        lines += ["| check | severity | elements | rule | source | forgives |", "|---|---|---|---|---|---|"]
        lines += ["| " + " | ".join(map(_cell, _row(check))) + " |" for check in those]
    return "\n".join(lines) + "\n"


def _row(check: Check) -> tuple[str, ...]:
    named = [keyword(tag) for tag in check.elements]
    more = f" and {len(named) - _SHOWN_ELEMENTS} more" if len(named) > _SHOWN_ELEMENTS else ""
    elements = ", ".join(named[:_SHOWN_ELEMENTS]) + more
    return f"`{check.name}`", check.severity.value, elements, check.rule, check.source, check.forgives


def _cell(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    sys.stdout.write(page())
