"""The senders of the drill, and the ledger of what was acknowledged to them.

The instances are made here, MR images of a few KB that say in every element that they are simulated. What a sender
knows, it writes into the ledger: that it sent these bytes under this SOP Instance UID, and that they were
acknowledged. At the end `comparison` holds the archive against it.
"""

from __future__ import annotations

import hashlib
import random
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import MRImageStorage

from tests.integration.listener.wire import COMMAND, DATA, LAST, RELEASE_RQ, RawSender, item, items, pdu, store_request

SUCCESS, OUT_OF_RESOURCES = 0x0000, 0xA700
P_DATA_TF = 0x04
C_STORE_RSP = 0x8001
LARGEST_MESSAGE_ID = 65535
WAIT_S = 120.0  # what has not come by then never will
ROWS = COLUMNS = 32
LARGE_BYTES = 5 << 20
FRAGMENT_BYTES = 262_000

_UID_MARK, _NUMBER_MARK = "2.25.7777777777.3.7777777", "77777777"  # replaced by others of the same length
_PIXEL_BYTES = 2 * ROWS * COLUMNS


@dataclass(frozen=True)
class Item:
    """An instance to send: one data set under one UID. The same UID may come again with these bytes or with others."""

    sop_instance_uid: str
    dataset: bytes

    @cached_property
    def digest(self) -> str:
        return content_digest(self.dataset)


def content_digest(dataset: bytes | memoryview) -> str:
    """What the ledger calls the bytes of a data set."""
    return hashlib.sha256(dataset).hexdigest()


class Instances:
    """New simulated instances, re-sends and conflicting re-sends, without end; all from one seed.

    Parameters
    ----------
    large_every
        Each so-manieth new instance has 5 MiB of pixels, so that it gets a file of its own; 0: none has.
    """

    def __init__(self, seed: int, *, n_series: int = 6, large_every: int = 0) -> None:
        self._rng = random.Random(f"instances {seed}")
        self._root = f"2.25.{10**9 + seed % 10**9}"
        self._templates = [_template(self._root, series) for series in range(n_series)]
        self._large_every = large_every
        self._sent: deque[Item] = deque(maxlen=200)
        self._number = 0
        self._lock = threading.Lock()

    def next(self) -> Item:
        """For any number of threads."""
        with self._lock:
            kind = self._rng.random()
            if self._sent and kind < 0.06:
                return self._rng.choice(self._sent)
            if self._sent and kind < 0.12:
                known = self._rng.choice(self._sent)
                made = Item(known.sop_instance_uid, self._other_pixels(known.dataset))
            else:
                made = self._new()
            if len(made.dataset) < FRAGMENT_BYTES:
                self._sent.append(made)
            return made

    def _new(self) -> Item:
        self._number += 1
        uid = f"{self._root}.3.{10**6 + self._number}"
        series = self._number % len(self._templates)
        template = self._templates[series].replace(_UID_MARK.encode(), uid.encode())
        template = template.replace(_NUMBER_MARK.encode(), f"{self._number:08d}".encode())
        if self._large_every and self._number % self._large_every == 0:
            pixels = self._rng.randbytes(1 << 16) * (LARGE_BYTES >> 16)
            return Item(uid, template[: -4 - _PIXEL_BYTES] + struct.pack("<I", len(pixels)) + pixels)
        return Item(uid, self._other_pixels(template))

    def _other_pixels(self, dataset: bytes) -> bytes:
        return dataset[:-_PIXEL_BYTES] + self._rng.randbytes(_PIXEL_BYTES)


def _template(root: str, series: int) -> bytes:
    """A data set, Explicit VR Little Endian, whose UID and number are marks of fixed length and whose end is pixels."""
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.ImageType = ["DERIVED", "SECONDARY", "OTHER"]
    ds.SOPClassUID, ds.SOPInstanceUID = MRImageStorage, _UID_MARK
    ds.StudyDate, ds.StudyTime = "20000101", "120000"
    ds.Modality, ds.Manufacturer = "MR", "SIMULATED"
    ds.StudyDescription, ds.SeriesDescription = "SIMULATED CRASH DRILL", f"SIMULATED {series}"
    ds.PatientName, ds.PatientID = f"SIMULATED^DRILL{series % 2}", f"SIMDRILL{series % 2}"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = f"{root}.1.{series % 2}", f"{root}.2.{series}"
    ds.SeriesNumber, ds.InstanceNumber = series + 1, _NUMBER_MARK
    ds.ScanningSequence, ds.SequenceVariant, ds.MRAcquisitionType = "SE", "NONE", "2D"
    ds.RepetitionTime, ds.EchoTime, ds.FlipAngle, ds.SliceThickness = "500", "10", "90", "5"
    ds.ImagePositionPatient, ds.ImageOrientationPatient = [0, 0, 0], [1, 0, 0, 0, 1, 0]
    ds.PixelSpacing = [6, 6]
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.Rows, ds.Columns = 1, "MONOCHROME2", ROWS, COLUMNS
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
    ds.PixelData = bytes(_PIXEL_BYTES)
    ds["PixelData"].VR = "OW"
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_dataset(buffer, ds)
    return bytes(buffer.getvalue())


class Ledger:
    """What was sent and what was acknowledged, by all senders. Contents are named by their digests."""

    def __init__(self) -> None:
        self.sent: dict[str, set[str]] = {}  # by SOP Instance UID
        self.acknowledged: dict[str, set[str]] = {}
        self.cannot_stand: set[tuple[str, str]] = set()  # first sent when other bytes had been acknowledged
        self.faults: list[str] = []  # what no sender should see
        self.answered: list[int] = []  # Message IDs that were answered with Success
        self.messages: dict[int, Item] = {}  # by Message ID; the latest
        self._last_message_id = 0
        self._grown = threading.Condition()

    def send(self, item: Item) -> int:
        """Note that `item` is being sent; its Message ID, which no other message of this drill has had lately."""
        with self._grown:
            digests = self.sent.setdefault(item.sop_instance_uid, set())
            if item.digest not in digests and self.acknowledged.get(item.sop_instance_uid):
                self.cannot_stand.add((item.sop_instance_uid, item.digest))
            digests.add(item.digest)
            self._last_message_id = self._last_message_id % LARGEST_MESSAGE_ID + 1
            self.messages[self._last_message_id] = item
            return self._last_message_id

    @property
    def n_acknowledged(self) -> int:
        """Answers, so that a re-send counts again."""
        return len(self.answered)

    def acknowledge(self, message_id: int) -> None:
        with self._grown:
            item = self.messages[message_id]
            self.acknowledged.setdefault(item.sop_instance_uid, set()).add(item.digest)
            self.answered.append(message_id)
            self._grown.notify_all()

    def complain(self, fault: str) -> None:
        with self._grown:
            self.faults.append(fault)
            self._grown.notify_all()

    def wait_for(self, n_acknowledged: int, timeout_s: float) -> None:
        """Until so many answers have come."""
        with self._grown:
            self._grown.wait_for(lambda: self.n_acknowledged >= n_acknowledged or self.faults, timeout_s)
            assert not self.faults, self.faults[0]
            assert self.n_acknowledged >= n_acknowledged, f"{self.n_acknowledged} answers in {timeout_s:.0f} s"


class Senders:
    """Several senders at once, each on associations of its own, until told to stop.

    An association that breaks is made anew, and what was not acknowledged is mostly sent again: some instances are
    given up, as an impatient scanner does.

    Parameters
    ----------
    find_port
        The port of the listener; None while there is none.
    pause_s
        Between two instances of an association.
    """

    def __init__(
        self,
        seed: int,
        n: int,
        instances: Instances,
        ledger: Ledger,
        find_port: Callable[[], int | None],
        *,
        pause_s: float = 0.0,
    ) -> None:
        self._instances, self._ledger, self._find_port, self._pause_s = instances, ledger, find_port, pause_s
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(random.Random(f"sender {seed} {number}"),), daemon=True)
            for number in range(n)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Each finishes what it is sending and releases its association."""
        self._stop.set()
        for thread in self._threads:
            thread.join(WAIT_S)
            if thread.is_alive():
                self._ledger.complain("a sender hangs")

    def _run(self, rng: random.Random) -> None:
        try:
            waiting: Item | None = None
            while not self._stop.is_set() or waiting is not None:
                waiting = self._associate(rng, waiting)
        except Exception as error:  # noqa: BLE001 - an edge: a thread that ended unseen would let the drill pass
            self._ledger.complain(f"a sender ended: {error!r}")

    def _associate(self, rng: random.Random, waiting: Item | None) -> Item | None:
        """One association; what was sent and not acknowledged when it broke."""
        port = self._find_port()
        if port is None:
            self._stop.wait(0.02)
            return waiting
        try:
            sender = RawSender(port)
        except (OSError, EOFError, AssertionError):  # nobody is there, or somebody else whom the port was given to
            self._stop.wait(0.02)
            return waiting
        try:
            with sender:
                for _ in range(rng.randint(5, 80)):
                    if waiting is None:
                        if self._stop.is_set():
                            break
                        waiting = self._instances.next()
                    if self._store(sender, waiting):
                        waiting = None
                    self._stop.wait(self._pause_s)
                sender.send(RELEASE_RQ)
                sender.read_pdu()  # the answer, or an A-ABORT of a listener that stops
        except (OSError, EOFError):  # the listener was killed
            return None if rng.random() < 0.15 else waiting
        return waiting

    def _store(self, sender: RawSender, item: Item) -> bool:
        """Whether it is done with: acknowledged, or refused for good."""
        message_id = self._ledger.send(item)
        send_instance(sender, item, message_id)
        answered_id, status = read_status(sender)
        if answered_id != message_id:
            self._ledger.complain(f"message {message_id} was answered as {answered_id}")
        if status == SUCCESS:
            self._ledger.acknowledge(message_id)
        elif status == OUT_OF_RESOURCES:  # the database is away
            self._stop.wait(0.02)
            return False
        else:
            self._ledger.complain(f"{item.sop_instance_uid} was answered with {status:04X}H")
        return True


def send_instance(sender: RawSender, instance: Item, message_id: int) -> None:
    """A C-STORE-RQ and its data set, in one write."""
    command = store_request(instance.sop_instance_uid, message_id)
    parts = [pdu(one) for one in items(DATA, instance.dataset, FRAGMENT_BYTES)]
    sender.send(pdu(item(COMMAND | LAST, command)), *parts)


def read_status(sender: RawSender) -> tuple[int, int]:
    """Message ID Being Responded To and Status of the next C-STORE-RSP."""
    kind, body = sender.read_pdu()
    if kind != P_DATA_TF:
        raise EOFError(f"a PDU of type {kind:02X}H")
    ((message_id, status),) = responses(struct.pack(">BxI", kind, len(body)) + body)
    return message_id, status


def responses(sent: bytes) -> Iterator[tuple[int, int]]:
    """Message ID Being Responded To and Status of each C-STORE-RSP in what a listener sent at once."""
    position = 0
    while position + 6 <= len(sent):
        kind, length = struct.unpack_from(">BxI", sent, position)
        body = sent[position + 6 : position + 6 + length]
        position += 6 + length
        if kind != P_DATA_TF or not body[5] & COMMAND:
            continue
        values, element = {}, 6
        while element < len(body):
            number, size = struct.unpack_from("<2xHI", body, element)
            values[number] = body[element + 8 : element + 8 + size]
            element += 8 + size
        if int.from_bytes(values.get(0x0100, b""), "little") == C_STORE_RSP:
            yield int.from_bytes(values[0x0120], "little"), int.from_bytes(values[0x0900], "little")
