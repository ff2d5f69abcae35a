"""The routing rules in force, followed while the node runs: config.yaml is looked at before each decision.

A look costs one `stat`. A file that changed is read once it has rested for a moment (an editor may still be writing),
and its rules are taken when the whole file is valid and they name no destination that the running node does not have;
otherwise the old ones stay, and the log says once why. Every version that comes into force is kept in the database,
before a decision names it. Called by `iap_node.worker.infer`.
"""

from __future__ import annotations

import hashlib
import time
from datetime import UTC, datetime
from pathlib import Path

import structlog

from iap_node.config import NodeConfig, load_config
from iap_node.config.section import did_you_mean
from iap_node.database.engine import Database
from iap_node.database.routes import save_rules
from iap_node.errors import ConfigError
from iap_node.routing.rules import Rules, rules_text

SETTLED_S = 1.0  # a file that was written so recently may not be whole yet

log = structlog.get_logger("rules")


class RulesFile:
    """The rules of one configuration file, by the newest valid version of it.

    Parameters
    ----------
    path
        None: the rules of `config` for ever.
    config
        As the node was started with: its destinations are those that routes may name.
    """

    def __init__(self, path: Path | None, config: NodeConfig, database: Database) -> None:
        self._path = path
        self._config = config
        self._database = database
        self._rules: Rules | None = None
        self._signature: tuple[int, int, int] | None = None
        self._content: str | None = None  # hash of what was looked at last

    def current(self) -> Rules:
        """The rules in force now.

        Raises
        ------
        DatabaseUnavailable
            A new version could not be kept; the old one stays until it can.
        """
        if self._rules is None:
            self._take(Rules(self._config.routing))
            log.info("routing rules in force", version=self._rules_in_force.version)
        if self._path is not None:
            self._look(self._path)
        return self._rules_in_force

    @property
    def _rules_in_force(self) -> Rules:
        assert self._rules is not None  # `current` has taken them
        return self._rules

    def _take(self, rules: Rules) -> None:
        with self._database.transaction() as session:
            save_rules(session, rules.version, rules_text(rules.config), datetime.now(UTC))
        self._rules = rules

    def _look(self, path: Path) -> None:
        try:
            found = path.stat()
        except OSError as error:
            self._refuse((0, 0, 0), f"{path.name} cannot be read: {error.strerror}")
            return
        signature = (found.st_mtime_ns, found.st_size, found.st_ino)
        if signature == self._signature or abs(time.time() - found.st_mtime) < SETTLED_S:
            return
        try:
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            if content == self._content:
                self._signature = signature
                return
            rules = self._read(path)
        except OSError as error:
            self._refuse(signature, f"{path.name} cannot be read: {error.strerror}")
            return
        except ConfigError as error:
            self._content = content
            self._refuse(signature, str(error))
            return
        if path.stat().st_mtime_ns != found.st_mtime_ns:  # written meanwhile: looked at next time
            return
        if rules.version != self._rules_in_force.version:
            before = self._rules_in_force.version
            self._take(rules)
            log.info("changed routing rules are in force", version=rules.version, before=before)
        self._signature, self._content = signature, content

    def _read(self, path: Path) -> Rules:
        routing = load_config(path).routing
        for key, names in routing.destination_names():
            for name in names:
                if name not in self._config.destinations:
                    raise ConfigError(
                        f"{key}: the running node has no destination {name!r}"
                        f"{did_you_mean(name, self._config.destinations)}; restart it after adding destinations"
                    )
        return Rules(routing)

    def _refuse(self, signature: tuple[int, int, int], reason: str) -> None:
        if signature != self._signature:
            self._signature = signature
            log.error(
                "changed routing rules are refused, the old ones stay in force",
                reason=reason,
                version=self._rules_in_force.version,
            )
