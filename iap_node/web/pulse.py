"""Server-sent events: browsers hear which topics have changed and fetch the parts of the page that show them.

One task asks the database once a second for all browsers, and only while there is one (HTML Living Standard, section
Server-sent events).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import structlog
from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from iap_node.database import pulse
from iap_node.errors import RetriableError
from iap_node.web.identity import Viewer
from iap_node.web.node import WebNode

EVERY_S = 1.0
KEEP_ALIVE_S = 15.0  # proxies close what is silent

router = APIRouter()
log = structlog.get_logger("web")


class Pulse:
    """Counts the changes of each topic; lives in the event loop."""

    def __init__(self, node: WebNode) -> None:
        self._node = node
        self._changed = asyncio.Condition()
        self._counts = dict.fromkeys(pulse.TOPICS, 0)
        self._n_listeners = 0
        self._over = False

    async def run(self) -> None:
        """Look until `end`."""
        last: dict[str, str] | None = None
        while not self._over:
            if self._n_listeners:
                try:
                    marks = await run_in_threadpool(self._read)
                except RetriableError as error:
                    log.warning("pulse missed", error=str(error))
                else:
                    await self._compare(last, marks)
                    last = marks
            await asyncio.sleep(EVERY_S)

    def _read(self) -> dict[str, str]:
        with self._node.database.reading() as session:
            return pulse.marks(session)

    async def _compare(self, last: dict[str, str] | None, marks: dict[str, str]) -> None:
        changed = [topic for topic, mark in marks.items() if last is None or last.get(topic) != mark]
        if changed:
            async with self._changed:
                for topic in changed:
                    self._counts[topic] += 1
                self._changed.notify_all()

    async def end(self) -> None:
        """Let all listeners go."""
        self._over = True
        async with self._changed:
            self._changed.notify_all()

    async def changes(self) -> AsyncIterator[list[str]]:
        """Topics that have changed since the last time; an empty list now and then, to be heard of."""
        seen = dict(self._counts)
        self._n_listeners += 1
        try:
            while not self._over:
                async with self._changed:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._changed.wait(), KEEP_ALIVE_S)
                    changed = [topic for topic, count in self._counts.items() if count != seen[topic]]
                    seen = dict(self._counts)
                yield changed
        finally:
            self._n_listeners -= 1


@router.get("/events", include_in_schema=False)
async def events(request: Request, _: Viewer) -> StreamingResponse:
    """The stream that every page listens to."""
    heart: Pulse = request.app.state.pulse

    async def stream() -> AsyncIterator[str]:
        yield "retry: 3000\n\n"
        async for topics in heart.changes():
            yield "".join(f"event: {topic}\ndata: changed\n\n" for topic in topics) or ": still here\n\n"

    return StreamingResponse(stream(), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})
