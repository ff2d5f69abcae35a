"""What operators do about rules: look at the `routing` section of config.yaml, check another one, replay it, save it.

What is saved was replayed as it is: who saves names the version of the rules that the replay was about. The worker
takes the file by itself (`iap_node.routing.rules_file`).
"""

from __future__ import annotations

import threading
import time
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path

from iap_node.config import load_config
from iap_node.config.routing import RoutingConfig
from iap_node.database import accounts, route_history
from iap_node.errors import ConfigError, PermanentError, RetriableError
from iap_node.routing.replay import Replayed, Tally, wanted_by
from iap_node.routing.replay import replay as replay_rules
from iap_node.routing.rules import Rules, rules_version
from iap_node.routing.rules_edit import RulesChanged, RulesText, checked_rules, read_rules, save_rules_text
from iap_node.web.identity import Identity
from iap_node.web.node import WebNode

REPLAY_S = 20.0  # a replay ends after so long, and says how far it came
MOST_NAMED = 20  # series that would go elsewhere
NO_FILE = "this node was started without a configuration file: its rules are what they are until it starts anew"

_replaying = threading.Lock()  # one at a time: it keeps a core busy


class RulesConflict(PermanentError):
    """Rules cannot be changed so now: there is no file, it is another one by now, or these were not replayed."""


@dataclass(frozen=True, slots=True)
class CheckedRules:
    """A section, read as it would be in its place in the file."""

    routing: RoutingConfig | None  # None: it is not valid
    problems: tuple[str, ...]  # one each
    version: str  # "" where it is not valid
    is_new: bool  # other rules than those in force


@dataclass(frozen=True, slots=True)
class ReplayedRules:
    """How the series of some days would go."""

    version: str  # of the rules that were replayed
    tally: Tally
    named: tuple[Replayed, ...]  # some of those that would go elsewhere
    n_decided: int  # to be replayed; more than `tally.n_series` where time ran out


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


def rules_text(node: WebNode) -> RulesText:
    """The section as it stands in the file.

    Raises
    ------
    RulesConflict
        There is no file.
    ConfigError
        It cannot be edited here; with what helps.
    """
    return read_rules(_path(node))


def check(node: WebNode, text: str) -> CheckedRules:
    """Whether a section is valid, and what is wrong with it; nothing is changed.

    Raises
    ------
    RulesConflict
        There is no file.
    """
    path = _path(node)
    try:
        routing, _ = checked_rules(read_rules(path), text, path.resolve().parent, node.config.destinations)
    except ConfigError as error:
        lines = str(error).splitlines()
        told = lines[1:] if lines[0].endswith("not valid:") else lines
        return CheckedRules(None, tuple(line.strip() for line in told), "", is_new=False)
    version = rules_version(routing)
    return CheckedRules(routing, (), version, version != rules_version(rules_in_force(node)))


def replay(node: WebNode, routing: RoutingConfig, days: int) -> ReplayedRules:
    """How the series of the last days would go by these rules; nothing is sent.

    Raises
    ------
    RetriableError
        Another replay is running.
    """
    if not _replaying.acquire(blocking=False):
        raise RetriableError("another replay is running")
    try:
        return _replay(node, Rules(routing), rules_version(routing), days)
    finally:
        _replaying.release()


def _replay(node: WebNode, rules: Rules, version: str, days: int) -> ReplayedRules:
    since, until = datetime.now(UTC) - timedelta(days=days), time.monotonic() + REPLAY_S
    with node.database.reading() as session:
        n_decided = route_history.count_decided(session, since)
    tally, named = Tally(), list[Replayed]()
    with closing(route_history.with_evidence(node.database, since, wanted_by(rules))) as series:
        for one in replay_rules(rules, series):
            tally.count(one)
            if one.goes_elsewhere and len(named) < MOST_NAMED:
                named.append(one)
            if time.monotonic() > until:
                break
    return ReplayedRules(version, tally, tuple(named), max(n_decided, tally.n_series))


def save(node: WebNode, identity: Identity, text: str, file_version: str, replayed: str) -> str:
    """Put a section into the file; the version of its rules.

    Parameters
    ----------
    file_version
        Of the file that the person read (`RulesText.version`).
    replayed
        Version of the rules that were replayed.

    Raises
    ------
    RulesConflict
        There is no file, it was changed since, or these rules were not replayed.
    ConfigError
        The section is not valid.
    """
    path = _path(node)
    now_there = read_rules(path)
    if now_there.version != file_version:
        raise RulesConflict(f"{path.name} was changed since this page was loaded: copy your text, load it again")
    routing, whole = checked_rules(now_there, text, path.resolve().parent, node.config.destinations)
    version, before = rules_version(routing), rules_version(rules_in_force(node))
    if replayed != version:
        raise RulesConflict("these rules were not replayed; replay them, and look at what would go elsewhere")
    with node.database.transaction() as session:
        detail = f"instead of {before}; the file before is {path.name}.before"
        accounts.note(session, identity.name, "change rules", version, datetime.now(UTC), detail, identity.address)
        try:  # within the transaction: no change without its line, and no line without its change
            save_rules_text(path, file_version, whole)
        except RulesChanged as error:
            raise RulesConflict(str(error)) from error
    return version


def _path(node: WebNode) -> Path:
    if node.config_path is None:
        raise RulesConflict(NO_FILE)
    return node.config_path
