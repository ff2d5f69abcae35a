"""Files from the browser, filed through the same archive and queue as C-STORE."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, File, HTTPException, Request, UploadFile
from fastapi.responses import HTMLResponse
from pydantic import BaseModel

from iap_node.database import accounts
from iap_node.web.identity import Operator, Viewer
from iap_node.web.node import Node
from iap_node.web.rendering import page

MOST_REFUSED = 50  # files named in one answer

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
def upload(node: Node, operator: Operator, files: Annotated[list[UploadFile], File()]) -> Uploaded:
    """File what came; the names of files are shown again and otherwise mean nothing."""
    if node.ingest is None:
        raise HTTPException(503, "this console cannot file instances; send them by C-STORE")
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
        for filed in node.ingest(paths):
            counts[filed.outcome] += 1
            if filed.reason and len(refused) < MOST_REFUSED:
                refused.append(Refused(name=names[filed.path], reason=filed.reason))
    told = ", ".join(f"{n} {outcome.replace('_', ' ')}" for outcome, n in counts.items())
    subject = f"{len(files)} files"
    with node.database.transaction() as session:
        accounts.note(session, operator.name, "upload", subject, datetime.now(UTC), told, operator.address)
    return Uploaded(counts=dict(counts), refused=refused)
