"""What every route works with: the node's configuration, database and spool."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Protocol

from fastapi import Depends, Request

from iap_node.config import NodeConfig
from iap_node.database.engine import Database
from iap_node.spool import Spool
from iap_node.web.throttle import Throttle


class FiledFile(Protocol):
    """What became of one file."""

    @property
    def path(self) -> object:
        """Which file: the path that was handed in."""

    @property
    def outcome(self) -> str:
        """In a word: stored, duplicate, conflict, quarantined, not_dicom."""

    @property
    def reason(self) -> str:
        """Why it was not filed; "" where it was."""


Ingest = Callable[[list[Path]], Iterable[FiledFile]]
"""Files instances as if they had been sent; the listener's intake, handed over by the command line."""


@dataclass(frozen=True, slots=True)
class WebNode:
    """The node as the console sees it."""

    config: NodeConfig
    config_path: Path | None  # None: it came from no file
    database: Database
    spool: Spool
    ingest: Ingest | None = None
    throttle: Throttle = field(default_factory=Throttle)
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))


def _node(request: Request) -> WebNode:
    node: WebNode = request.app.state.node
    return node


Node = Annotated[WebNode, Depends(_node)]
