"""The rule editor: the `routing` section of config.yaml, checked while it is typed, replayed, then saved.

What is saved was replayed as it is: the form carries the version of the rules that the replay was about, and another
one is not taken. The worker takes the file by itself (`iap_node.routing.rules_file`).
"""

from __future__ import annotations

import threading
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Form, HTTPException, Request
from fastapi.responses import HTMLResponse

from iap_node.config import load_config
from iap_node.config.routing import RoutingConfig
from iap_node.database import accounts, route_history
from iap_node.errors import ConfigError, RetriableError
from iap_node.routing.replay import Replayed, Tally, replay, wanted_by
from iap_node.routing.rules import Rules, rules_version
from iap_node.routing.rules_edit import RulesChanged, checked_rules, read_rules, save_rules_text
from iap_node.web.identity import Operator
from iap_node.web.node import Node, WebNode
from iap_node.web.rendering import page

REPLAY_S = 20.0  # a replay ends after so long, and says how far it came
MOST_NAMED = 20  # series that would go elsewhere
NO_FILE = "this node was started without a configuration file: its rules are what they are until it starts anew"

Text = Annotated[str, Form()]
Days = Annotated[int, Form(ge=1, le=366)]

router = APIRouter(prefix="/routes/rules", include_in_schema=False)
_replaying = threading.Lock()  # one at a time: it keeps a core busy


def rules_in_force(node: WebNode) -> RoutingConfig:
    """The rules as the file has them now, where that is valid; else as the node was started with."""
    if node.config_path is None:
        return node.config.routing
    try:
        found = node.config_path.stat()
    except OSError:
        return node.config.routing
    in_file = _routing_of(node.config_path, (found.st_mtime_ns, found.st_size, found.st_ino))
    return node.config.routing if in_file is None else in_file


@lru_cache(maxsize=1)
def _routing_of(path: Path, _: tuple[int, int, int]) -> RoutingConfig | None:
    """The rules of one state of the file; None: it is not valid. Reading YAML is most of the time of a page."""
    try:
        return load_config(path).routing
    except ConfigError:
        return None


def editor(node: WebNode) -> dict[str, Any]:
    """What `_rule_editor.html` shows."""
    shown: dict[str, Any] = {"text": "", "file_version": "", "refused": "", "problems": [], "saved": ""}
    if node.config_path is None:
        return shown | {"refused": NO_FILE}
    try:
        text = read_rules(node.config_path)
    except ConfigError as error:
        return shown | {"refused": str(error)}
    return shown | {"text": text.section, "file_version": text.version, "problems": _checked(node, text.section)[1]}


@router.post("/check")
def check(request: Request, node: Node, operator: Operator, text: Text) -> HTMLResponse:
    """Whether the text is valid; asked while it is typed."""
    routing, problems = _checked(node, text)
    version = "" if routing is None else rules_version(routing)
    in_force = rules_version(rules_in_force(node))
    return page(request, "_rule_check.html", operator, problems=problems, is_new=version != in_force, rules=version)


@router.post("/replay")
def replay_rules(request: Request, node: Node, operator: Operator, text: Text, days: Days = 30) -> HTMLResponse:
    """Which series of the last days would go elsewhere; offers to save."""
    routing, problems = _checked(node, text)
    if routing is None:
        return page(request, "_rule_check.html", operator, problems=problems, is_new=False, rules="")
    if not _replaying.acquire(blocking=False):
        raise RetriableError("another replay is running")
    try:
        tally, named, n_decided = _replay(node, Rules(routing), days)
    finally:
        _replaying.release()
    return page(
        request, "_rule_replay.html", operator, days=days, tally=tally, named=named, n_decided=n_decided,
        ways=[(old, new, number) for (old, new), number in tally.ways.most_common() if old != new],
        rules=rules_version(routing),
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
    path = _path(node)
    now_there = read_rules(path)
    if now_there.version != file_version:
        raise HTTPException(409, f"{path.name} was changed since this page was loaded: copy your text, load it again")
    routing, whole = checked_rules(now_there, text, path.resolve().parent, node.config.destinations)
    version, before = rules_version(routing), rules_version(rules_in_force(node))
    if replayed != version:
        raise HTTPException(409, "these rules were not replayed; replay them, and look at what would go elsewhere")
    with node.database.transaction() as session:
        detail = f"instead of {before}; the file before is {path.name}.before"
        accounts.note(session, operator.name, "change rules", version, datetime.now(UTC), detail, operator.address)
        try:  # within the transaction: no change without its line, and no line without its change
            save_rules_text(path, file_version, whole)
        except RulesChanged as error:
            raise HTTPException(409, str(error)) from error
    return page(request, "_rule_editor.html", operator, **(editor(node) | {"saved": version}))


def _path(node: WebNode) -> Path:
    if node.config_path is None:
        raise HTTPException(409, NO_FILE)
    return node.config_path


def _checked(node: WebNode, text: str) -> tuple[RoutingConfig | None, list[str]]:
    """The rules, or what is wrong with them, line by line."""
    path = _path(node)
    try:
        return checked_rules(read_rules(path), text, path.resolve().parent, node.config.destinations)[0], []
    except ConfigError as error:
        lines = str(error).splitlines()
        return None, [line.strip() for line in (lines[1:] if lines[0].endswith("not valid:") else lines)]


def _replay(node: WebNode, rules: Rules, days: int) -> tuple[Tally, list[Replayed], int]:
    """How the series of the last days would go, some of those that go elsewhere, and how many there are to decide."""
    since, until = datetime.now(UTC) - timedelta(days=days), time.monotonic() + REPLAY_S
    with node.database.reading() as session:
        n_decided = route_history.count_decided(session, since)
    tally, named = Tally(), list[Replayed]()
    with closing(route_history.with_evidence(node.database, since, wanted_by(rules))) as series:
        for one in replay(rules, series):
            tally.count(one)
            if one.goes_elsewhere and len(named) < MOST_NAMED:
                named.append(one)
            if time.monotonic() > until:
                break
    return tally, named, max(n_decided, tally.n_series)
