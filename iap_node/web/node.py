"""What every route works with: the node's configuration, database and spool."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from fastapi import Depends, Request

from iap_node.config import NodeConfig
from iap_node.database.engine import Database
from iap_node.spool import Spool
from iap_node.web.throttle import Throttle


@dataclass(frozen=True, slots=True)
class WebNode:
    """The node as the console sees it."""

    config: NodeConfig
    config_path: Path | None  # None: it came from no file
    database: Database
    spool: Spool
    throttle: Throttle = field(default_factory=Throttle)
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))


def _node(request: Request) -> WebNode:
    node: WebNode = request.app.state.node
    return node


Node = Annotated[WebNode, Depends(_node)]
