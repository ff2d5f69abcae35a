"""Files that people hand in: filed through the same archive and queue as C-STORE."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from iap_node.database import accounts
from iap_node.errors import RetriableError
from iap_node.upkeep.forecast import size_text
from iap_node.web.identity import Identity
from iap_node.web.node import Ingest, WebNode

FIELD = "files"
MOST_REFUSED = 50  # files named in one answer
MOST_FILES, MOST_FIELDS = 1000, 10  # of one request


@dataclass(frozen=True, slots=True)
class Refused:
    """A file that was not filed."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Uploaded:
    """What became of the files of one request."""

    counts: dict[str, int]  # by outcome: stored, duplicate, conflict, quarantined, not_dicom
    refused: tuple[Refused, ...]


async def upload(request: Request, node: WebNode, identity: Identity) -> Uploaded:
    """File what a form of files brings; their names are told again and otherwise mean nothing.

    The form is read here, once it is known who sends it: the framework would read it before.

    Raises
    ------
    RetriableError
        This console cannot file instances, or not now.
    HTTPException
        No file came (422), one that is too large (413), or the disk has no room for it (507).
    """
    if node.ingest is None:
        raise RetriableError("this console cannot file instances; send them by C-STORE")
    _refuse_without_room(request, node)
    async with request.form(max_files=MOST_FILES, max_fields=MOST_FIELDS) as form:
        files = [one for one in form.getlist(FIELD) if isinstance(one, UploadFile)]
        if not files:
            raise HTTPException(422, f"no files in the field {FIELD!r}")
        return await run_in_threadpool(_file, node, node.ingest, identity, files)


def _refuse_without_room(request: Request, node: WebNode) -> None:
    """Before anything of the body is read: it takes its length on the disk twice, on its way and as instances."""
    announced = request.headers.get("content-length", "")
    length = int(announced) if announced.isascii() and announced.isdigit() else 0
    reserve = node.config.spool.disk_reserve_mb * 1024**2
    free = shutil.disk_usage(node.config.data_dir).free
    if free - 2 * length < reserve:
        raise HTTPException(
            507,
            f"{size_text(free)} are free and {size_text(reserve)} of these stay so (spool.disk_reserve_mb): "
            f"no room for {size_text(length)} more; make room, or let retention do it",
        )


def _file(node: WebNode, ingest: Ingest, identity: Identity, files: Sequence[UploadFile]) -> Uploaded:
    counts: Counter[str] = Counter()
    refused: list[Refused] = []
    most_bytes = node.config.listener.max_instance_mb * 1024**2
    with tempfile.TemporaryDirectory(dir=node.config.data_dir, prefix="upload-") as folder:
        paths: list[Path] = []
        names: dict[object, str] = {}
        for number, one in enumerate(files):
            if (one.size or 0) > most_bytes:
                raise HTTPException(413, f"a file is larger than listener.max_instance_mb = {most_bytes // 1024**2}")
            path = Path(folder) / str(number)
            with path.open("wb") as copy:
                shutil.copyfileobj(one.file, copy)
            paths.append(path)
            names[path] = one.filename or ""
        for filed in ingest(paths):
            counts[filed.outcome] += 1
            if filed.reason and len(refused) < MOST_REFUSED:
                refused.append(Refused(name=names[filed.path], reason=filed.reason))
    told = ", ".join(f"{n} {outcome.replace('_', ' ')}" for outcome, n in counts.items())
    subject = f"{len(files)} files"
    with node.database.transaction() as session:
        accounts.note(session, identity.name, "upload", subject, datetime.now(UTC), told, identity.address)
    return Uploaded(counts=dict(counts), refused=tuple(refused))
