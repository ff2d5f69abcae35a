"""The rule editor: the `routing` section of config.yaml, checked while it is typed, replayed, then saved.

The form carries the version of the rules that the replay was about, and another one is not taken (`actions.rules`).
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse

from iap_node.errors import ConfigError
from iap_node.web.actions import rules as actions
from iap_node.web.identity import Operator
from iap_node.web.node import Node, WebNode
from iap_node.web.rendering import page

Text = Annotated[str, Form()]
Days = Annotated[int, Form(ge=1, le=366)]

router = APIRouter(prefix="/routes/rules", include_in_schema=False)


def editor(node: WebNode) -> dict[str, Any]:
    """What `_rule_editor.html` shows."""
    shown: dict[str, Any] = {"text": "", "file_version": "", "refused": "", "problems": [], "saved": ""}
    try:
        text = actions.rules_text(node)
    except (actions.RulesConflict, ConfigError) as error:
        return shown | {"refused": str(error)}
    problems = list(actions.check(node, text.section).problems)
    return shown | {"text": text.section, "file_version": text.version, "problems": problems}


@router.post("/check")
def check(request: Request, node: Node, operator: Operator, text: Text) -> HTMLResponse:
    """Whether the text is valid; asked while it is typed."""
    checked = actions.check(node, text)
    return page(
        request, "_rule_check.html", operator, problems=checked.problems, is_new=checked.is_new, rules=checked.version
    )


@router.post("/replay")
def replay_rules(request: Request, node: Node, operator: Operator, text: Text, days: Days = 30) -> HTMLResponse:
    """Which series of the last days would go elsewhere; offers to save."""
    checked = actions.check(node, text)
    if checked.routing is None:
        return page(request, "_rule_check.html", operator, problems=checked.problems, is_new=False, rules="")
    done = actions.replay(node, checked.routing, days)
    return page(
        request, "_rule_replay.html", operator, days=days, tally=done.tally, named=done.named, n_decided=done.n_decided,
        ways=[(old, new, number) for (old, new), number in done.tally.ways.most_common() if old != new],
        rules=done.version,
    )  # fmt: skip


@router.post("")
def save(
    request: Request,
    node: Node,
    operator: Operator,
    text: Text,
    file_version: Annotated[str, Form(max_length=64)],
    replayed: Annotated[str, Form(max_length=64)] = "",
) -> HTMLResponse:
    """Put the section into the file."""
    version = actions.save(node, operator, text, file_version, replayed)
    return page(request, "_rule_editor.html", operator, **(editor(node) | {"saved": version}))
