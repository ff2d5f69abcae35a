"""Files from the browser, filed through the same archive and queue as C-STORE."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import HTMLResponse
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from iap_node.database import accounts
from iap_node.web.identity import Identity, Operator, Viewer
from iap_node.web.node import Ingest, Node, WebNode
from iap_node.web.rendering import page

MOST_REFUSED = 50  # files named in one answer
MOST_FILES, MOST_FIELDS = 1000, 10  # of one request

router = APIRouter(include_in_schema=False)


class Refused(BaseModel):
    """A file that was not filed."""

    name: str
    reason: str


class Uploaded(BaseModel):
    """What became of the files of one request."""

    counts: dict[str, int]
    refused: list[Refused]


@router.get("/upload")
def show_upload(request: Request, viewer: Viewer) -> HTMLResponse:
    """The page."""
    return page(request, "upload.html", viewer)


@router.post("/upload")
async def upload(request: Request, node: Node, operator: Operator) -> Uploaded:
    """File what came; the names of files are shown again and otherwise mean nothing.

    The form is read here, once it is known who sends it: the framework would read it before.
    """
    if node.ingest is None:
        raise HTTPException(503, "this console cannot file instances; send them by C-STORE")
    async with request.form(max_files=MOST_FILES, max_fields=MOST_FIELDS) as form:
        files = [one for one in form.getlist("files") if isinstance(one, UploadFile)]
        if not files:
            raise HTTPException(422, "no files in the field 'files'")
        return await run_in_threadpool(_file, node, node.ingest, operator, files)


def _file(node: WebNode, ingest: Ingest, operator: Identity, files: Sequence[UploadFile]) -> Uploaded:
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
        accounts.note(session, operator.name, "upload", subject, datetime.now(UTC), told, operator.address)
    return Uploaded(counts=dict(counts), refused=refused)
