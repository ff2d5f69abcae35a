"""Headers recognised by what repeats are the headers that a walk finds, whatever comes after one another."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iap_node.dicom import elements as el
from iap_node.dicom.elements import Encoding
from iap_node.dicom.recurring import PATIENCE, PAUSE, RecurringHeaders
from iap_node.errors import UnreadableInstance

ENCODINGS = [Encoding(implicit=False, little=True), Encoding(implicit=True, little=True), Encoding(False, False)]
WANTED = frozenset({0x00080005, 0x00080016, 0x00080018, 0x00200013, 0x00280010, 0x00280011})
STOP_AFTER = 0x00280011
MAX_VALUE_BYTES = 300
MAX_STEPS = 200
VRS = {0x00080005: "CS", 0x00080016: "UI", 0x00080018: "UI", 0x00280010: "US", 0x00280011: "US", 0x00281050: "DS"}
SEQUENCE = 0x00081140
PRIVATE = 0x00191001

tags = st.sampled_from([*WANTED, 0x00080020, 0x00080060, 0x00180050, 0x00180081, 0x00200032, SEQUENCE, PRIVATE])
values = st.one_of(st.sampled_from([b"", b"1", b"1.2.3", b"abcd"]), st.binary(max_size=12), st.just(b"x" * 400))
headers = st.lists(st.tuples(tags, values), max_size=12, unique_by=lambda element: element[0]).map(sorted)


def encode(encoding: Encoding, tag: int, value: bytes) -> bytes:
    order = "<" if encoding.little else ">"
    start = struct.pack(order + "HH", tag >> 16, tag & 0xFFFF)
    value += b" " * (len(value) % 2)
    if tag == SEQUENCE:  # of undefined length, with one item
        item = struct.pack(order + "HHI", 0xFFFE, 0xE000, 8)
        item += struct.pack(order + "HH", 8, 0x1150)
        item += struct.pack(order + "I", 0) if encoding.implicit else b"UI" + struct.pack(order + "H", 0)
        end = struct.pack(order + "HHI", 0xFFFE, 0xE0DD, 0)
        length = struct.pack(order + "I", el.UNDEFINED)
        return start + (length if encoding.implicit else b"SQ\0\0" + length) + item * (len(value) % 3) + end
    if encoding.implicit:
        return start + struct.pack(order + "I", len(value)) + value
    if tag == PRIVATE:
        return start + b"UN\0\0" + struct.pack(order + "I", len(value)) + value
    return start + VRS.get(tag, "LO").encode() + struct.pack(order + "H", len(value)) + value


def encode_all(encoding: Encoding, header: list[tuple[int, bytes]]) -> bytes:
    return b"".join(encode(encoding, tag, value) for tag, value in header)


def recurring(encoding: Encoding) -> RecurringHeaders:
    return RecurringHeaders(encoding, WANTED, STOP_AFTER, max_value_bytes=MAX_VALUE_BYTES, max_steps=MAX_STEPS)


def walked(encoding: Encoding, head: bytes) -> dict[int, el.Element] | str | None:
    try:
        found, beyond = el.walk(
            head, encoding, WANTED, STOP_AFTER, max_value_bytes=MAX_VALUE_BYTES, max_sequence_bytes=MAX_VALUE_BYTES,
            max_steps=MAX_STEPS,
        )  # fmt: skip
    except UnreadableInstance as error:
        return str(error)
    return None if beyond is None else found


def recognised(scanned: RecurringHeaders, head: bytes) -> dict[int, el.Element] | str | None:
    try:
        return scanned.walk(head)
    except UnreadableInstance as error:
        return str(error)


@pytest.mark.parametrize("encoding", ENCODINGS)
@given(data=st.data())
def test_whatever_comes_after_what_the_walk_and_what_repeats_agree(encoding: Encoding, data: st.DataObject) -> None:
    scanned = recurring(encoding)
    pool = data.draw(st.lists(headers, min_size=1, max_size=3))
    tail = encode(encoding, 0x00281050, b"40") + encode(encoding, 0x7FE00010, b"pixels and more pixels")
    for _ in range(data.draw(st.integers(2, 14))):
        header = list(data.draw(st.sampled_from(pool)))
        for place in data.draw(st.lists(st.integers(0, 11), max_size=3)):
            if place < len(header):
                header[place] = header[place][0], data.draw(values)
        head = bytearray(encode_all(encoding, header) + tail)
        for place, byte in data.draw(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=1)):
            if place < len(head):
                head[place] = byte
        cut = data.draw(st.one_of(st.none(), st.integers(0, len(head))))
        sent = bytes(head[:cut])
        assert recognised(scanned, sent) == walked(encoding, sent)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_third_header_of_a_kind_is_recognised_without_a_walk(
    encoding: Encoding, monkeypatch: pytest.MonkeyPatch
) -> None:
    def head(number: int) -> bytes:
        sop = f"1.2.3.{number}".encode()
        header = [(0x00080005, b"ISO_IR 100"), (0x00080018, sop), (SEQUENCE, b"a"), (0x00200013, b"%d" % number)]
        return encode_all(encoding, [*header, (0x00280010, b"\0\1"), (0x00281050, b"40"), (0x00281051, b"400000")])

    scanned = recurring(encoding)
    for number in (1, 20):
        assert scanned.walk(head(number)) == walked(encoding, head(number))
    expected = walked(encoding, head(300))

    def no_walk(*_: object, **__: object) -> None:
        raise AssertionError("it was walked over")

    monkeypatch.setattr("iap_node.dicom.recurring.walk", no_walk)
    assert scanned.walk(head(300)) == expected


def test_sender_whose_headers_never_repeat_is_not_learned_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    encoding = ENCODINGS[0]
    learned: list[int] = []
    learn = RecurringHeaders._learn
    monkeypatch.setattr(RecurringHeaders, "_learn", lambda self, *a: (learned.append(number), learn(self, *a)))
    scanned = recurring(encoding)
    for number in range(PATIENCE + PAUSE):
        kind = [(0x00080020 + number, b"x"), (0x00281050, b"40"), (0x00281051, b"400000")]
        assert scanned.walk(encode_all(encoding, kind)) == {}
    assert PATIENCE <= len(learned) <= 2 * PATIENCE + 1
