"""The destinations of the delivery drill: ten of four kinds, most of them at fault, each at random from one seed.

Each counts what it took, and what it took without its answer being heard: only that may come twice through its fault.
Called by `delivery_drill`.
"""

from __future__ import annotations

import json
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.uid import MRImageStorage, RawDataStorage
from pynetdicom import evt

from tests.acceptance.drill.driver import content_digest
from tests.integration.conftest import Peer
from tests.integration.listener.conftest import split_part10
from tests.integration.routing.https_server import Received, running

SUCCESS, COERCED, OUT_OF_RESOURCES, CANNOT_UNDERSTAND = 0x0000, 0xB000, 0xA700, 0xC001


@dataclass(frozen=True)
class Faults:
    """How often a destination does what, as shares of its answers."""

    full: float = 0.0  # takes nothing: A7xx, 503
    dropped_before: float = 0.0  # ends the association or connection instead of taking it
    dropped_after: float = 0.0  # takes it, and ends the association or connection instead of saying so
    warned: float = 0.0


@dataclass
class Books:
    """What one destination took. Keys: SOP Instance UIDs; of a webhook the series'."""

    taken: Counter[str] = field(default_factory=Counter)
    unheard: Counter[str] = field(default_factory=Counter)  # of those: without an answer that could be heard
    digests: dict[str, set[str]] = field(default_factory=dict)  # of the data sets
    answers: Counter[str] = field(default_factory=Counter)  # for people
    lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, key: str, content: bytes, *, heard: bool) -> None:
        """Note one instance, or one message, that was taken."""
        with self.lock:
            self.taken[key] += 1
            self.unheard[key] += not heard
            self.digests.setdefault(key, set()).add(content_digest(content))


class _Fate:
    """What becomes of the next one that comes."""

    def __init__(self, seed: int, name: str, faults: Faults, books: Books) -> None:
        self._rng = random.Random(f"{name} {seed}")
        self._faults, self._books = faults, books
        self.mended = False

    def next(self) -> str:
        """full, dropped_before, dropped_after, warned, or well."""
        with self._books.lock:
            drawn = self._rng.random()
            found = "well"
            for name in ("full", "dropped_before", "dropped_after", "warned"):
                drawn -= 0.0 if self.mended else getattr(self._faults, name)
                if drawn < 0.0:
                    found = name
                    break
            self._books.answers[found] += 1
            return found


class DicomReceiver:
    """A C-STORE SCP.

    Parameters
    ----------
    refuses
        Whether an instance is refused for good.
    comes_and_goes
        Whether the whole of it is stopped and started again now and then (`toggle`).
    """

    def __init__(
        self,
        seed: int,
        name: str,
        faults: Faults = Faults(),
        *,
        refuses: Callable[[str], bool] = lambda uid: False,
        sop_classes: tuple[str, ...] = (MRImageStorage, RawDataStorage),
        comes_and_goes: bool = False,
    ) -> None:
        self.name, self.books, self.comes_and_goes = name, Books(), comes_and_goes
        self._fate, self._refuses = _Fate(seed, name, faults, self.books), refuses
        self._last: dict[Any, str] = {}  # taken on an association, whose answer may not have been sent yet
        self.peer = Peer(ae_title=name.upper(), answer=self._answer, sop_classes=sop_classes)
        self.peer.start()
        self.is_up = True

    def settings(self) -> dict[str, Any]:
        """Its entry under `destinations`."""
        return {"ae_title": self.peer.ae_title, "host": "127.0.0.1", "port": self.peer.port, "timeout_s": 20}

    def toggle(self) -> None:
        """Stop it where it runs, start it where it does not. What it took last may be unheard then."""
        if self.is_up:
            last = [self._last.get(assoc) for assoc in self.peer._server.active_associations]
            self.peer.stop()
            with self.books.lock:
                self.books.unheard.update(uid for uid in last if uid is not None)
        else:
            self.peer.start()
        self.is_up = not self.is_up

    def mend(self) -> None:
        """From now on everything is taken."""
        self._fate.mended = True
        self._refuses = lambda uid: False
        self.peer.stop()
        self.peer.sop_classes = (MRImageStorage, RawDataStorage)
        self.peer.start()
        self.is_up = True

    def close(self) -> None:
        if self.is_up:
            self.peer.stop()

    def _answer(self, event: evt.Event) -> int:
        uid, content = str(event.request.AffectedSOPInstanceUID), event.request.DataSet.getvalue()
        if self._refuses(uid):
            return CANNOT_UNDERSTAND
        fate = self._fate.next()
        if fate == "full":
            return OUT_OF_RESOURCES
        if fate == "dropped_before":
            event.assoc.abort()
            return OUT_OF_RESOURCES
        self.books.take(uid, content, heard=fate != "dropped_after")
        if fate == "dropped_after":
            event.assoc.abort()
        else:
            self._last[event.assoc] = uid
        return COERCED if fate == "warned" else SUCCESS


class HttpReceiver:
    """A DICOMweb server or a webhook's receiver."""

    def __init__(self, seed: int, name: str, faults: Faults, life: ExitStack, folder: Path) -> None:
        self.name, self.books, self.comes_and_goes = name, Books(), False
        self._fate = _Fate(seed, name, faults, self.books)
        self._server = life.enter_context(running(None))
        self._server.answer = self._answer
        self._is_webhook = name == "webhook"
        self._secret = folder / "secret"
        if self._is_webhook:
            self._secret.write_text("of the drill")
            self._secret.chmod(0o600)

    def settings(self) -> dict[str, Any]:
        """Its entry under `destinations`."""
        url = f"http://127.0.0.1:{self._server.port}"
        if self._is_webhook:
            return {"kind": "webhook", "url": url, "secret_file": str(self._secret), "timeout_s": 20}
        return {"kind": "dicomweb", "url": url, "timeout_s": 20}

    def mend(self) -> None:
        """From now on everything is taken."""
        self._fate.mended = True

    def close(self) -> None:
        """It ends with the life that it was given."""

    def _answer(self, request: Received) -> tuple[int, bytes] | None:
        fate = self._fate.next()
        self._server.received.clear()
        if fate == "full":
            return 503, b""
        if fate == "dropped_before":
            return None
        for key, content in self._keys(request):
            self.books.take(key, content, heard=fate != "dropped_after")
        return None if fate == "dropped_after" else (200, b"")

    def _keys(self, request: Received) -> Iterator[tuple[str, bytes]]:
        if self._is_webhook:
            yield str(json.loads(request.body)["delivery"]).split("/")[0], b""  # series, revision, destination
            return
        boundary = request.headers["Content-Type"].rsplit("boundary=", 1)[1].encode()
        for part in request.body.split(b"\r\n--" + boundary)[:-1]:
            content = part.split(b"\r\n\r\n", 1)[1]
            ds = dcmread(BytesIO(content), specific_tags=["SOPInstanceUID"], stop_before_pixels=True)
            yield str(ds.SOPInstanceUID), split_part10(content)[1]


class FolderReceiver:
    """A folder: looked at when all is over."""

    def __init__(self, path: Path) -> None:
        self.name, self.comes_and_goes, self._path, self._books = "folder", False, path, Books()
        path.mkdir()

    def settings(self) -> dict[str, Any]:
        """Its entry under `destinations`."""
        return {"kind": "folder", "path": str(self._path), "template": "{SOPInstanceUID}.dcm"}

    @property
    def books(self) -> Books:
        """A file counts once; what is half written has another name, and counts as something that nobody sent."""
        books = Books()
        for path in self._path.iterdir():
            books.take(path.stem, split_part10(path.read_bytes())[1], heard=True)
        return books

    def mend(self) -> None:
        """There is nothing wrong with it."""

    def close(self) -> None:
        """It stays."""


Receiver = DicomReceiver | HttpReceiver | FolderReceiver


@contextmanager
def ten_receivers(seed: int, folder: Path, refuses: Callable[[str], bool]) -> Iterator[dict[str, Receiver]]:
    """All ten, by the names that they have in the configuration; `refuses` holds for the one called `picky`."""
    with ExitStack() as life:
        receivers: list[Receiver] = [
            DicomReceiver(seed, "steady"),
            DicomReceiver(seed, "warns", Faults(warned=0.5)),
            DicomReceiver(seed, "full", Faults(full=0.2)),
            DicomReceiver(seed, "aborts", Faults(dropped_before=0.1, dropped_after=0.1)),
            DicomReceiver(seed, "picky", refuses=refuses),
            DicomReceiver(seed, "images", sop_classes=(MRImageStorage,)),
            DicomReceiver(seed, "away", comes_and_goes=True),
            HttpReceiver(seed, "dicomweb", Faults(full=0.1, dropped_before=0.05, dropped_after=0.05), life, folder),
            HttpReceiver(seed, "webhook", Faults(full=0.1, dropped_before=0.05, dropped_after=0.05), life, folder),
            FolderReceiver(folder / "out"),
        ]
        for receiver in receivers:
            life.callback(receiver.close)
        yield {receiver.name: receiver for receiver in receivers}
