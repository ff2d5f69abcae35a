"""Templates: one environment, autoescape on; header text from outside is data and stays it."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from fastapi import Request
from fastapi.responses import HTMLResponse

from iap_node import __version__
from iap_node.audit.cells import harmless_page
from iap_node.upkeep.forecast import size_text
from iap_node.web.identity import Identity

STATIC_FOLDER = Path(__file__).parent / "static"

# Title, path, of the bar on every page; what a role may not see is not there.
NAVIGATION = (
    ("Overview", "/"),
    ("Series", "/series"),
    ("Findings", "/findings"),
    ("Scanners", "/scanners"),
    ("Routes", "/routes"),
    ("Destinations", "/destinations"),
    ("Queue", "/queue"),
    ("Models", "/models"),
    ("Upload", "/upload"),
    ("Admin", "/admin"),
)

templates = jinja2.Environment(
    loader=jinja2.PackageLoader("iap_node.web", "templates"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def page(
    request: Request, template: str, identity: Identity | None = None, *, status_code: int = 200, **context: Any
) -> HTMLResponse:
    """A whole page, or the fragment of one that htmx asked for (a template of its own, named `_...`)."""
    html = templates.get_template(template).render(
        request=request,
        identity=identity,
        navigation=NAVIGATION,
        path=request.url.path,
        version=__version__,
        now=datetime.now(UTC),
        **context,
    )
    return HTMLResponse(harmless_page(html), status_code)


@cache
def static_url(name: str) -> str:
    """URL of a file of ours, with its hash, so that browsers may keep it for ever."""
    digest = hashlib.sha256((STATIC_FOLDER / name).read_bytes()).hexdigest()[:12]
    return f"/static/{name}?{digest}"


def local_time(at: datetime | None) -> str:
    """A time as people read it, in the server's zone."""
    return "" if at is None else at.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def age(at: datetime | None) -> str:
    """How long ago, in one unit."""
    if at is None:
        return ""
    seconds = max(0.0, (datetime.now(UTC) - at).total_seconds())
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


templates.globals["static_url"] = static_url
templates.filters.update(local_time=local_time, age=age, size=size_text)
