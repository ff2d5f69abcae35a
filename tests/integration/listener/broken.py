"""Data sets that lie, trick, nest and swell, each with what must be said about it.

What can be identified is stored, whatever the rest of it is worth: the worker says so later. What cannot is in the
quarantine with its reason.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
)

from tests.integration.listener.conftest import encode, make_instance

STORED, MISMATCH, CANNOT_UNDERSTAND = 0x0000, 0xA900, 0xC000
UNDEFINED = 0xFFFFFFFF
BOMB_BYTES = 300 * 1024**2  # inflated; the scan passes over 256 MiB
DEPTH = 20_000
_LONG = (b"OB", b"OW", b"SQ", b"UN", b"UT")


@dataclass(frozen=True)
class Broken:
    """One data set on its way."""

    what: str
    dataset: bytes
    status: int
    reason: str = ""  # in the quarantine's
    transfer_syntax_uid: str = ExplicitVRLittleEndian
    sop_instance_uid: str = "1.2.3"  # of the request


def element(tag: int, vr: bytes, value: bytes, length: int | None = None) -> bytes:
    """An element in explicit VR little endian; `length` may lie."""
    size = len(value) if length is None else length
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr)
    return head + (struct.pack("<HI", 0, size) if vr in _LONG else struct.pack("<H", size & 0xFFFF)) + value


def _deflate(*parts: bytes) -> bytes:
    deflater = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    return b"".join([*(deflater.compress(part) for part in parts), deflater.flush()])


_PATIENT_ID = element(0x00100020, b"LO", b"SECRET-4711 ")


def _nested(depth: int, sequence: int) -> bytes:
    """Sequences of undefined length, one in the other."""
    item = struct.pack("<HHI", 0xFFFE, 0xE000, UNDEFINED)
    return (element(sequence, b"SQ", b"", UNDEFINED) + item) * depth


def _closed(depth: int, sequence: int) -> bytes:
    """The same, closed again."""
    ends = struct.pack("<HHIHHI", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
    return _nested(depth, sequence) + ends * depth


class _Collection:
    """Data sets as they are added; `whole` makes a new sound one to break."""

    def __init__(self, make: Callable[..., Any]) -> None:
        self.found: list[Broken] = []
        self._make = make

    def whole(self, **changes: Any) -> tuple[str, bytes]:
        """SOP Instance UID and data set."""
        ds = self._make(**changes)
        return str(ds.SOPInstanceUID), encode(ds)

    def add(
        self, what: str, dataset: bytes, status: int, reason: str = "", *, uid: str = "1.2.3", syntax: str = ""
    ) -> None:
        self.found.append(Broken(what, dataset, status, reason, syntax or ExplicitVRLittleEndian, uid))

    def edit(
        self, what: str, change: Callable[[bytes], bytes], status: int, reason: str = "", *, syntax: str = ""
    ) -> None:
        """Add a sound data set that is changed."""
        uid, dataset = self.whole()
        self.add(what, change(dataset), status, reason, uid=uid, syntax=syntax)

    def identity(self) -> tuple[str, bytes, bytes]:
        """SOP Instance UID, data set, and the element in it that says the UID."""
        uid, dataset = self.whole()
        return uid, dataset, element(0x00080018, b"UI", uid.encode() + b"\0" * (len(uid) % 2))


def broken_data_sets(make: Callable[..., Any] = make_instance) -> list[Broken]:
    """All of them, from sound ones that `make` makes; its parameters are keywords of elements."""
    collection = _Collection(make)
    for part in (_no_data_sets, _truncated, _lying, _tricks, _identities, _odd, _misdeclared, _bombs, _nests, _pixels):
        part(collection)
    return collection.found


def _no_data_sets(to: _Collection) -> None:
    to.add("nothing", b"", CANNOT_UNDERSTAND, "is absent")
    jpeg = b"\xff\xd8\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0" + bytes(range(256)) * 8 + b"\xff\xd9"
    to.add("a JPEG", jpeg, CANNOT_UNDERSTAND, "is absent")
    pdf = b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n<< /Type /Catalog >>\n" * 20
    to.add("a PDF", pdf, CANNOT_UNDERSTAND, "is absent")
    to.add("a HTML page", b"<!DOCTYPE html><html><body>403 Forbidden</body>" * 9, CANNOT_UNDERSTAND, "is absent")
    to.edit("a file with preamble", lambda dataset: bytes(128) + b"DICM" + dataset, CANNOT_UNDERSTAND, "is absent")


def _truncated(to: _Collection) -> None:
    """What is left decides."""
    rows, study = b"\x28\0\x10\0US", b"\x20\0\x0d\0UI"
    to.edit("truncated in its pixels", lambda dataset: dataset[:-5], STORED)
    to.edit("truncated in its Rows", lambda dataset: dataset[: dataset.index(rows) + 9], STORED)
    to.edit("truncated in a tag", lambda dataset: dataset[: dataset.index(rows) + 3], STORED)
    for n in (0, 7, 11):
        to.edit(
            f"truncated {n} bytes behind its Patient ID", lambda dataset, n=n: dataset[: dataset.index(study) + n],
            CANNOT_UNDERSTAND, "Study Instance UID (0020,000D)",
        )  # fmt: skip


def _lying(to: _Collection) -> None:
    """Lengths that say more than there is."""
    for length in (0xFFFFFFFE, 2**31, 2**32 - 2**20):
        private = element(0x00090010, b"LO", b"IAP ") + element(0x00091001, b"OB", b"abc", length)
        to.edit(
            f"{length} bytes of private data first", lambda ds, private=private: private + ds,
            CANNOT_UNDERSTAND, "is absent",
        )  # fmt: skip
    to.edit("4 GB of pixels that are not there", lambda ds: ds[:-36] + b"\xfe\xff\xff\xff" + ds[-32:], STORED)
    uid, dataset, identity = to.identity()
    longer = dataset.replace(identity, identity[:6] + b"\xff\xff" + identity[8:])
    to.add("a SOP Instance UID of 65535 bytes", longer, CANNOT_UNDERSTAND, "is absent", uid=uid)


def _tricks(to: _Collection) -> None:
    """UIDs that are none."""
    tricks = {
        "a path": "../../../etc/cron.d/x",
        "an absolute path": "/etc/passwd",
        "a path of another system": "C:\\Windows\\System32",
        "dots": "..",
        "a dot at its end": "1.2.3.",
        "NUL": "1.2\x003",
        "4,000 characters": "1." * 2000,
        "65 digits": "1" * 65,
        "a line break": "1.2\n3",
        "a command": "1.2.3;rm -rf",
        "digits of another script": "\u0661.\u0662",
    }
    for what, trick in tricks.items():
        value = trick.encode() + b"\0" * (len(trick.encode()) % 2)
        for tag, name, plain in (
            (0x0020000D, "Study Instance UID", b"1.2.840.99.1"),
            (0x0020000E, "Series Instance UID", b"1.2.840.99.1.1"),
        ):
            uid, dataset = to.whole()
            tricked = dataset.replace(element(tag, b"UI", plain), element(tag, b"UI", value))
            assert tricked != dataset
            to.add(f"{what} as {name}", tricked, CANNOT_UNDERSTAND, name, uid=uid)
        to.add(f"{what} in the request", to.whole()[1], MISMATCH, "SOP Instance UID", uid=trick)


def _identities(to: _Collection) -> None:
    """An identity twice, too late, or as something else."""
    uid, dataset, identity = to.identity()
    to.add("two SOP Instance UIDs, the second one true", dataset.replace(
        identity, element(0x00080018, b"UI", b"1.2.3.9\0") + identity), STORED, uid=uid)  # fmt: skip
    uid, dataset, identity = to.identity()
    to.add("two SOP Instance UIDs, the first one true", dataset.replace(
        identity, identity + element(0x00080018, b"UI", b"1.2.3.9\0")), MISMATCH, "1.2.3.9", uid=uid)  # fmt: skip
    uid, dataset, identity = to.identity()
    late = dataset.replace(identity, b"") + identity
    to.add("an identity behind the pixels", late, CANNOT_UNDERSTAND, "is absent", uid=uid)
    for vr in (b"LO", b"ZZ", b"UN"):
        uid, dataset, identity = to.identity()
        other = dataset.replace(identity, element(0x00080018, vr, identity[8:]))
        to.add(f"an identity as {vr.decode()}", other, STORED, uid=uid)
    uid, dataset, identity = to.identity()
    other = dataset.replace(identity, _closed(1, 0x00080018))
    to.add("an identity as a sequence", other, CANNOT_UNDERSTAND, "SOP Instance UID", uid=uid)


def _odd(to: _Collection) -> None:
    """Lengths and values that the standard does not know."""
    modality = element(0x00080060, b"CS", b"MR")
    to.edit("a value of odd length", lambda ds: ds.replace(modality, element(0x00080060, b"CS", b"MR ")), STORED)
    for what, character_set, patient_id in (
        ("text of a codec that makes surrogates", b"utf_7 ", b"+2AA-\xe9"),
        ("a character set that does not exist", b"ISO_IR 4711\\x", b"P\xe9ter"),
        ("escape sequences for a terminal", b"ISO_IR 6 ", b"\x1b[2J\x07\x9b31m"),
    ):
        said, written = element(0x00080005, b"CS", character_set), element(0x00100020, b"LO", patient_id)
        to.edit(what, lambda ds, said=said, written=written: said + ds.replace(_PATIENT_ID, written), STORED)


def _misdeclared(to: _Collection) -> None:
    """Encoded otherwise than the presentation context says."""
    to.edit("little endian, said to be big", lambda ds: ds, CANNOT_UNDERSTAND, syntax=ExplicitVRBigEndian)
    deflated = DeflatedExplicitVRLittleEndian
    to.edit("not deflated, said to be", lambda ds: ds, CANNOT_UNDERSTAND, "deflate", syntax=deflated)
    to.edit("deflated, said not to be", _deflate, CANNOT_UNDERSTAND, "is absent")
    to.edit("explicit VR, said to be implicit", lambda ds: ds, STORED, syntax=ImplicitVRLittleEndian)
    to.edit("native pixels, said to be JPEG", lambda ds: ds, STORED, syntax=JPEGBaseline8Bit)


def _bombs(to: _Collection) -> None:
    """Kilobytes that inflate to hundreds of megabytes."""
    zeros = [bytes(1024**2)] * (BOMB_BYTES // 1024**2)
    private = element(0x00090010, b"LO", b"IAP ") + element(0x00091001, b"OB", b"", BOMB_BYTES)
    pixels = element(0x7FE00010, b"OW", b"", BOMB_BYTES)
    empty = element(0x00080001, b"UL", b"") * 100_000
    syntax = DeflatedExplicitVRLittleEndian
    to.edit("a bomb first", lambda ds: _deflate(private, *zeros, ds), CANNOT_UNDERSTAND, "is absent", syntax=syntax)
    to.edit("a bomb of pixels", lambda ds: _deflate(ds[:-44], pixels, *zeros), STORED, syntax=syntax)
    to.edit("a bomb of elements", lambda ds: _deflate(*[empty] * 50, ds), CANNOT_UNDERSTAND, "elements", syntax=syntax)


def _nests(to: _Collection) -> None:
    """Sequences in sequences."""
    for what, nest in {f"{DEPTH} open": _nested, f"{DEPTH} closed": _closed}.items():
        early, late = nest(DEPTH, 0x00080006), nest(DEPTH, 0x52009229)
        to.edit(f"{what} sequences first", lambda ds, early=early: early + ds, CANNOT_UNDERSTAND, "nested deeper")
        to.edit(f"{what} sequences last", lambda ds, late=late: ds[:-44] + late + ds[-44:], STORED)
    inner = b""
    for _ in range(2000):
        inner = element(0x52009229, b"SQ", struct.pack("<HHI", 0xFFFE, 0xE000, len(inner)) + inner)
    to.edit("2000 sequences with their lengths, last", lambda ds: ds[:-44] + inner + ds[-44:], STORED)


def _pixels(to: _Collection) -> None:
    """Promises that would need more memory than there is."""
    for what, changes in {
        "8 GB of pixels": {"Rows": 65535, "Columns": 65535},
        "a billion frames": {"NumberOfFrames": "999999999"},
        "cells of 65535 bits": {"BitsAllocated": 65535, "BitsStored": 65535},
        "no pixels at all": {"PixelData": None},
    }.items():
        uid, dataset = to.whole(**changes)
        to.add(what, dataset, STORED, uid=uid)
