"""Seeded conversations with the listener, legal and illegal, each with what must come of it, for test_hostile_peers.

A conversation is a negotiated association, some messages in a framing that nobody would choose, and an end: a release,
a break, or bytes that the standard forbids where they stand. Illegal here is what docs/decisions/0007 names as such.
"""

from __future__ import annotations

import os
import random
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum, auto
from io import BytesIO
from pathlib import Path

from pydicom.uid import MRImageStorage, generate_uid
from pynetdicom.dsutils import decode
from pynetdicom.pdu_primitives import UserIdentityNegotiation
from pynetdicom.presentation import PresentationContext, build_context

from iap_node.listener.receiver import MAX_COMMAND_BYTES
from tests.integration.listener.conftest import encode, make_instance, wait_for
from tests.integration.listener.wire import (
    A_ABORT,
    ABORT,
    COMMAND,
    DATA,
    LAST,
    P_DATA_TF,
    RELEASE_RQ,
    STORAGE,
    VERIFICATION,
    WAIT_S,
    RawSender,
    association_request,
    echo_request,
    element,
    item,
    pdu,
    store_request,
)

A_RELEASE_RP = 0x06
NOT_PROPOSED = 5  # a context ID
LENGTHS = (0, 1, 2**31, 2**32 - 1)  # of an item, all wrong
SEED = os.environ.get("IAP_NODE_HOSTILE_SEED", "1")


class End(Enum):
    """How a conversation ends."""

    RELEASE = auto()
    RELEASE_WITHIN_A_MESSAGE = auto()
    WE_ABORT = auto()
    WE_CLOSE = auto()
    WE_RESET = auto()
    ILLEGAL = auto()


class _Place(Enum):
    """Where in a message something illegal may stand."""

    BETWEEN = auto()
    IN_COMMAND = auto()
    IN_DATA_SET = auto()


@dataclass(frozen=True)
class Conversation:
    """What a peer sends once it is associated, and what must come of it."""

    seed: str
    what: str
    content: bytes
    end: End
    n_bytes_at_once: int
    closes: bool  # the peer closes the connection once the association has ended, as it should
    stored: dict[str, bytes]  # data sets by SOP Instance UID, which must be answered and filed to the bit
    n_echoes: int


@dataclass
class Heard:
    """What a peer heard."""

    statuses: dict[str, int] = field(default_factory=dict)  # of stores, by SOP Instance UID
    n_echoes: int = 0
    is_aborted: bool = False
    is_released: bool = False


# ---------------------------------------------------------------- what is illegal, and where


def _anywhere(rng: random.Random) -> tuple[str, bytes]:
    control = rng.choice([COMMAND, DATA]) | rng.choice([0, LAST])
    length = rng.choice(LENGTHS)
    choices: list[Callable[[], tuple[str, bytes]]] = [
        lambda: (f"an item of {length} bytes", pdu(item(control, b"1234", length=length))),
        lambda: ("an item longer than its PDU", pdu(item(control, b"1234", length=7))),
        lambda: ("a PDU that ends in an item's header", pdu(bytes(rng.randint(1, 5)))),
        lambda: ("a PDU of an unknown type", pdu(pdu_type=rng.choice([0, 8, 0x16, 0x47, 0xFF]))),
        lambda: ("a release of gigabytes", pdu(pdu_type=0x05, length=rng.choice([2**31, 2**32 - 1]))),
        lambda: ("a second A-ASSOCIATE-RQ", pdu(bytes(68), pdu_type=0x01)),
        lambda: ("an A-ASSOCIATE-AC", pdu(bytes(68), pdu_type=0x02)),
        lambda: ("an A-ASSOCIATE-RJ", pdu(b"\0\1\1\1", pdu_type=0x03)),
        lambda: ("an A-RELEASE-RP", pdu(bytes(4), pdu_type=A_RELEASE_RP)),
        lambda: ("a context that was not proposed", pdu(item(COMMAND | LAST, echo_request(), NOT_PROPOSED))),
        lambda: ("context 0", pdu(item(control, b"1234", 0))),
    ]
    return rng.choice(choices)()


def _between(rng: random.Random) -> tuple[str, bytes]:
    choices = [
        ("data before command", pdu(item(DATA | rng.choice([0, LAST]), bytes(10)))),
        ("an endless command", pdu(*[item(COMMAND, bytes(4096))] * (MAX_COMMAND_BYTES // 4096 + 1))),
        ("a command of noise", pdu(item(COMMAND | LAST, b"\xff" * rng.randint(8, 99)))),
        ("an empty command", pdu(item(COMMAND | LAST, b""))),
        ("a command cut short", pdu(item(COMMAND | LAST, store_request("1.2.3")[: -rng.randint(1, 7)]))),
        ("a service without name", pdu(item(COMMAND | LAST, element(0x0100, b"\xee\xee") + element(0x0800, b"\1\1")))),
        ("an event report", pdu(item(COMMAND | LAST, event_report_request(), rng.choice([STORAGE, VERIFICATION])))),
    ]
    return rng.choice(choices)


def _in_command(rng: random.Random) -> tuple[str, bytes]:
    return rng.choice(
        [
            ("data within a command", pdu(item(DATA | rng.choice([0, LAST]), bytes(10)))),
            ("another context within a command", pdu(item(COMMAND, b"12", VERIFICATION))),
        ]
    )


def _in_data_set(rng: random.Random) -> tuple[str, bytes]:
    return rng.choice(
        [
            ("a second request within a data set", pdu(item(COMMAND | LAST, store_request("1.2.3")))),
            ("an echo within a data set", pdu(item(COMMAND | LAST, echo_request(), VERIFICATION))),
            ("another context within a data set", pdu(item(DATA, b"12", VERIFICATION))),
        ]
    )


_ILLEGAL = {_Place.BETWEEN: _between, _Place.IN_COMMAND: _in_command, _Place.IN_DATA_SET: _in_data_set}


def event_report_request() -> bytes:
    """The command set of an N-EVENT-REPORT-RQ, which pynetdicom serves in a thread of its own."""
    elements = (
        element(0x0002, b"1.2.840.10008.1.20.1")
        + element(0x0100, b"\x00\x01")
        + element(0x0110, b"\x01\0")
        + element(0x0800, b"\x01\x01")
        + element(0x1000, b"1.2.840.10008.1.20.1.1")
        + element(0x1002, b"\x01\0")
    )
    return element(0, struct.pack("<I", len(elements))) + elements


# ---------------------------------------------------------------- making conversations


def converse(seed: str) -> Conversation:
    """The conversation of a seed."""
    rng = random.Random(seed)
    items: list[bytes] = []
    stored: dict[str, bytes] = {}
    n_echoes = 0
    for message_id in range(rng.randint(0, 4)):
        if rng.random() < 0.3:
            items += _split(rng, COMMAND, echo_request(message_id), VERIFICATION)
            n_echoes += 1
        else:
            sop_instance_uid, dataset = make_dataset(rng)
            items += _split(rng, COMMAND, store_request(sop_instance_uid, message_id))
            items += _split(rng, DATA, dataset)
            stored[sop_instance_uid] = dataset
    end = rng.choice([End.ILLEGAL] * 5 + list(End)[:-1])
    what, tail = end.name, b""
    if end is not End.RELEASE:
        place = rng.choice(list(_Place)) if end is not End.RELEASE_WITHIN_A_MESSAGE else _Place.IN_DATA_SET
        items += _unfinished(rng, place)
        if end is End.ILLEGAL:
            what, tail = (rng.choice([_anywhere, _ILLEGAL[place]]))(rng)
            what = f"{what}, {place.name}"
    tail += {End.RELEASE: RELEASE_RQ, End.RELEASE_WITHIN_A_MESSAGE: RELEASE_RQ, End.WE_ABORT: ABORT}.get(end, b"")
    content = _frame(rng, items) + tail
    n_bytes_at_once = rng.choice([1, 7, 1000, 1 << 20]) if len(content) < 5000 else rng.choice([1000, 1 << 20])
    closes = rng.random() < 0.95
    return Conversation(seed, what, content, end, n_bytes_at_once, closes, stored, n_echoes)


def make_dataset(rng: random.Random) -> tuple[str, bytes]:
    """SOP Instance UID and encoded data set; now and then a large one."""
    ds = make_instance(SOPInstanceUID=generate_uid(entropy_srcs=[str(rng.random())]))
    ds.PixelData = rng.randbytes(rng.choice([0, 2, 32, 1000, 1000, 70_000]))
    return str(ds.SOPInstanceUID), encode(ds)


def _split(rng: random.Random, control: int, content: bytes, context_id: int = STORAGE) -> list[bytes]:
    """Content in fragments of any length, empty ones and odd ones too, the last one marked as such."""
    longest = rng.choice([1, 2, 9, 100, 100_000, 100_000]) if len(content) < 2000 else rng.choice([3000, 100_000])
    pieces, start = [], 0
    while start < len(content):
        size = rng.randint(0, longest)
        pieces.append(content[start : start + size])
        start += size
    if not pieces or rng.random() < 0.2:
        pieces.append(b"")
    reserved = rng.choice([0, 0, 0xFC])  # PS3.8 E.2: only the two low bits are significant
    return [
        item(reserved | control | (LAST if n == len(pieces) - 1 else 0), piece, context_id)
        for n, piece in enumerate(pieces)
    ]


def _unfinished(rng: random.Random, place: _Place) -> list[bytes]:
    """A message up to some place in it."""
    sop_instance_uid, dataset = make_dataset(rng)
    if place is _Place.BETWEEN:
        return []
    command = _split(rng, COMMAND, store_request(sop_instance_uid))
    if place is _Place.IN_COMMAND:
        return [item(COMMAND, store_request(sop_instance_uid)[: rng.randint(1, 60)])]
    return [*command, item(DATA, dataset[: rng.randint(0, len(dataset))])]


def _frame(rng: random.Random, items: list[bytes]) -> bytes:
    """Items in PDUs, several in one, and PDUs of none."""
    together = rng.choice([1, 1, 3, 50])
    pdus, start = [], 0
    while start < len(items):
        n = rng.randint(0 if rng.random() < 0.1 else 1, together)
        pdus.append(pdu(*items[start : start + n]))
        start += n
    return b"".join(pdus)


# ---------------------------------------------------------------- before an association stands


def requests(rng: random.Random) -> Iterator[tuple[str, bytes]]:
    """A-ASSOCIATE-RQs of every kind of nonsense, and a few that are only unusual."""
    plain = association_request(_contexts(2))
    identity = UserIdentityNegotiation()
    identity.user_identity_type, identity.primary_field = 1, bytes(60_000)
    yield "128 contexts of 60 transfer syntaxes", association_request(_contexts(128, 60))
    yield "one context ID 200 times", _with_items(plain, _context_item(1) * 200)
    yield "300 contexts, even IDs and 0 among them", _with_items(plain, b"".join(map(_context_item, range(256))) * 2)
    yield "64 KB of user identity", association_request(_contexts(1), 16384, identity)
    yield "64 KB of unknown user information", _with_items(plain, struct.pack(">BxH", 0x50, 65_000) + bytes(65_000))
    version = struct.pack(">BxH", 0x55, 1) + b"1"
    yield "a megabyte of empty items", _with_items(plain, struct.pack(">BxH", 0x10, 0) * 250_000)
    yield "a megabyte of user information", _with_items(
        plain, (struct.pack(">BxH", 0x50, 12_000 * len(version)) + version * 12_000) * 16
    )
    yield "a hundred application contexts", _with_items(plain, (struct.pack(">BxH", 0x10, 5) + b"1.2.3") * 100)
    yield "no items", _with_items(plain, b"")
    yield "items of noise", _with_items(plain, rng.randbytes(3000))
    yield "an item that claims more than there is", _with_items(plain, struct.pack(">BxH", 0x20, 0xFFFF) + b"1234")
    yield "control characters as titles", plain[:10] + bytes(range(32)) + plain[42:]
    yield "titles of 0xFF", plain[:10] + b"\xff" * 32 + plain[42:]
    yield "protocol version 0", plain[:6] + b"\0\0" + plain[8:]
    yield "a request cut short", plain[: rng.randrange(7, len(plain))]
    yield "a length one too small", plain[:2] + struct.pack(">I", len(plain) - 7) + plain[6:]
    yield "a length one too large", plain[:2] + struct.pack(">I", len(plain) - 5) + plain[6:]
    yield "an A-ASSOCIATE-AC", b"\2" + plain[1:]
    yield "data before any association", pdu(item(COMMAND | LAST, echo_request()))
    yield "a request and data at once", plain + pdu(item(COMMAND | LAST, echo_request(), VERIFICATION)) * 20
    yield "two requests", plain * 2
    yield "a release", RELEASE_RQ
    yield "an abort", ABORT
    yield "HTTP", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
    yield "a TLS ClientHello", b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + rng.randbytes(506)
    for _ in range(15):
        yield "mutations", mutate(association_request(_contexts(3, 3)), rng)


def _contexts(n_contexts: int, n_transfer_syntaxes: int = 1) -> list[PresentationContext]:
    syntaxes = ["1.2.840.10008.1.2.1", *(f"1.2.3.{n}" for n in range(1, n_transfer_syntaxes))]
    contexts = [build_context(MRImageStorage, syntaxes) for _ in range(n_contexts)]
    for n, context in enumerate(contexts):
        context.context_id = 2 * n + 1
    return contexts


def _context_item(context_id: int) -> bytes:
    syntaxes = b"".join(
        struct.pack(">BxH", kind, len(uid)) + uid.encode()
        for kind, uid in ((0x30, MRImageStorage), (0x40, "1.2.840.10008.1.2.1"))
    )
    return struct.pack(">BxHBxxx", 0x20, 4 + len(syntaxes), context_id) + syntaxes


def _with_items(request: bytes, variable_items: bytes) -> bytes:
    """A request with other items behind its 74 fixed bytes: PS3.8 Table 9-11."""
    return request[:2] + struct.pack(">I", 68 + len(variable_items)) + request[6:74] + variable_items


def mutate(content: bytes, rng: random.Random) -> bytes:
    """Content with a few bytes changed, cut out, put in or repeated."""
    mutated = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        start = rng.randrange(len(mutated))
        stop = min(len(mutated), start + rng.randint(1, 12))
        change = rng.choice(["change", "cut", "insert", "repeat", "length"])
        if change == "change":
            mutated[start] = rng.randrange(256)
        elif change == "cut":
            del mutated[start:stop]
        elif change == "insert":
            mutated[start:start] = rng.randbytes(stop - start)
        elif change == "repeat":
            mutated[start:start] = mutated[start:stop]
        else:
            mutated[start : start + 4] = rng.choice([b"\0\0\0\0", b"\xff\xff\xff\xff", b"\0\0\0\x01"])
    return bytes(mutated)


def knock(port: int, content: bytes, *, n_bytes_at_once: int = 1 << 20) -> bytes:
    """Say something on a new connection, and that this is all; the type of the listener's first PDU, if it said one.

    Returns when the listener has closed the connection, or has accepted an association.
    """
    with socket.create_connection(("127.0.0.1", port), timeout=WAIT_S) as peer:
        try:
            for start in range(0, len(content), n_bytes_at_once):
                peer.sendall(content[start : start + n_bytes_at_once])
            first = peer.recv(1)
            while first != b"\x02" and peer.recv(65_536):
                pass
        except ConnectionError:
            return b""
        return first


# ---------------------------------------------------------------- holding them


def hold(conversation: Conversation, port: int, tls: ssl.SSLContext | None = None) -> Heard:
    """Say it all, and listen until the end of the association, or until the listener has closed the connection."""
    heard = Heard()
    with RawSender(port, tls=tls) as sender:
        try:
            sender.send_slowly(conversation.content, conversation.n_bytes_at_once)
            if conversation.end in (End.WE_CLOSE, End.WE_RESET):
                for _ in range(len(conversation.stored) + conversation.n_echoes):
                    _hear(sender, heard)
                if conversation.end is End.WE_RESET:
                    sender.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return heard
            while not (conversation.closes and (heard.is_aborted or heard.is_released)):
                _hear(sender, heard)
        except EOFError:
            pass
        except ConnectionError:  # what we sent last was not wanted any more
            pass
    return heard


def _hear(sender: RawSender, heard: Heard) -> None:
    pdu_type, body = sender.read_pdu()
    if pdu_type != P_DATA_TF:
        heard.is_aborted |= pdu_type == A_ABORT
        heard.is_released |= pdu_type == A_RELEASE_RP
        return
    response = decode(BytesIO(body[6:]), True, True)
    if response.CommandField == 0x8001:
        heard.statuses[str(response.AffectedSOPInstanceUID)] = response.Status
    else:
        heard.n_echoes += 1


def judge(conversation: Conversation, heard: Heard) -> None:
    """Whether a peer heard what it must."""
    told = f"seed {conversation.seed}, {conversation.what}: {heard}"
    # Our abort or reset may overtake the listener's answers, and its own abort those of pynetdicom; stores that came in
    # whole are answered before anything that comes behind them is looked at.
    if conversation.end not in (End.WE_ABORT, End.WE_RESET):
        assert heard.statuses == dict.fromkeys(conversation.stored, 0), told
    if conversation.end in (End.RELEASE, End.WE_CLOSE):
        assert heard.n_echoes == conversation.n_echoes, told
    assert heard.is_aborted is (conversation.end is End.ILLEGAL), told
    assert heard.is_released is (conversation.end in (End.RELEASE, End.RELEASE_WITHIN_A_MESSAGE)), told


# ---------------------------------------------------------------- what a process holds


@dataclass(frozen=True)
class Footprint:
    """What a process holds."""

    n_threads: int
    n_descriptors: int
    resident_mib: float

    @classmethod
    def of(cls, pid: int) -> Footprint:
        """Read from /proc."""
        proc = Path(f"/proc/{pid}")
        status = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines() if ":" in line)
        own = pid == os.getpid()  # our own count of threads knows which of them are Python's
        n_threads = len(threading.enumerate()) if own else len(list((proc / "task").iterdir()))
        return cls(n_threads, len(list((proc / "fd").iterdir())), int(status["VmRSS"].split()[0]) / 1024)


    @staticmethod
    def peak_mib(pid: int) -> float:
        """The most memory that a process held since it was started."""
        status = Path(f"/proc/{pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmHWM:")).split()[1]) / 1024


def wait_until_let_go(pid: int, before: Footprint, *, spare_descriptors: int = 0) -> Footprint:
    """Wait until a process holds no more threads and descriptors than before; what it holds then."""

    def now_or_none() -> Footprint | None:
        now = Footprint.of(pid)
        let_go = now.n_threads <= before.n_threads and now.n_descriptors <= before.n_descriptors + spare_descriptors
        return now if let_go else None

    try:
        return wait_for(now_or_none, "threads and descriptors to be let go")
    except AssertionError as error:
        held = sorted(str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir() if link.exists())
        raise AssertionError(f"{error}: {before} became {Footprint.of(pid)}: {held}") from None
