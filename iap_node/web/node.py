"""What every route works with: the node's configuration, database and spool."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Protocol

from fastapi import Depends, Request

from iap_node.config import NodeConfig
from iap_node.database.engine import Database
from iap_node.dicom.store_instances import PartStatus
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


class StowRequest(Protocol):
    """One request of STOW-RS on its way in: a `multipart.Parts`."""

    @property
    def parts(self) -> Sequence[PartStatus]:
        """What became of each so far."""

    def begin_part(self) -> None:
        """A part begins that is a DICOM file."""

    def write(self, piece: memoryview) -> None:
        """So much of it came; raises a `NodeError` where it is too large to be read on."""

    def end_part(self) -> None:
        """It came whole, or was refused."""

    def refuse_part(self, why: str) -> None:
        """A part begins that is no DICOM file."""

    def waited(self, seconds: float, n_bytes: int) -> None:
        """So long nothing came, then so much; raises a `NodeError` where that is too slow."""

    def settle(self) -> None:
        """Wait for the rows of what was stored."""

    def close(self) -> None:
        """The end, however it came."""


class Stow(Protocol):
    """Takes instances by STOW-RS: `iap_node.listener.stow`, handed over by the command line."""

    @property
    def idle_timeout_s(self) -> float:
        """How long a sender may be silent."""

    def begin(self, sender: str, address: str, study_instance_uid: str | None) -> StowRequest:
        """Begin a request; raises `RetriableError` where nothing can be taken now."""


@dataclass(frozen=True, slots=True)
class WebNode:
    """The node as the console sees it."""

    config: NodeConfig
    config_path: Path | None  # None: it came from no file
    database: Database
    spool: Spool
    ingest: Ingest | None = None
    stow: Stow | None = None  # None: nothing is taken by STOW-RS
    throttle: Throttle = field(default_factory=Throttle)
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))


def _node(request: Request) -> WebNode:
    node: WebNode = request.app.state.node
    return node


Node = Annotated[WebNode, Depends(_node)]
