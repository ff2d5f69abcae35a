"""Fuzz target: what an instance states, read and checked as the worker and `iap-node audit` do.

An input is a byte that chooses the transfer syntax and the company in which the instance is checked, and the bytes of a
data set, its pixels among them. Whatever they are: statements, or `UnreadableInstance` with a reason; and findings
whose every text can be shown, logged and stored, the same for every order of the instances. Nothing else may be raised:
one instance would cost the audit of a whole folder. The instance is checked by itself, then as the odd one of a sound
series or as most of one.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, cast

import pydicom
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    MRImageStorage,
)

from iap_node.audit.checks import CHECKS, check_series
from iap_node.audit.checks.check import RAW_TEXT_LIMIT
from iap_node.dicom.file_slice import InstanceFile
from iap_node.dicom.part10 import file_preamble, read_instance
from iap_node.dicom.statements import Image, InstanceStatements, Stated, read_header_and_statements, read_statements
from iap_node.errors import UnreadableInstance
from iap_node.records import Finding
from tests.fuzz.instances import MAX_SEED_BYTES, SOP_INSTANCE_UID, encode, instances, simulated

SYNTAXES = (
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    JPEGBaseline8Bit,  # stands for all that are encapsulated: the codestream says itself what it is
)
TEST_FILES = Path(pydicom.__file__).parent / "data" / "test_files"
# As which SOP Class, and whether as the odd one of a sound series or as most of one.
COMPANIES = ((MRImageStorage, True), (MRImageStorage, False), (EnhancedMRImageStorage, False),
             (EnhancedMRImageStorage, True))  # fmt: skip
_SOP_CLASS_UID, _SOP_INSTANCE_UID = 0x00080016, 0x00080018
_LONGEST_EVIDENCE, _N_SOUND, _N_ALIKE = 1500, 6, 5


class _FileInMemory:
    """What is asked of an `InstanceFile`."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def open(self, mode: str = "rb") -> BinaryIO:
        return BytesIO(self._content)


def _file(transfer_syntax_uid: str, dataset: bytes) -> InstanceFile:
    preamble = file_preamble(MRImageStorage, SOP_INSTANCE_UID, transfer_syntax_uid)
    return cast(InstanceFile, _FileInMemory(preamble + dataset))


def _named(instance: InstanceStatements, sop_class_uid: str, number: int) -> InstanceStatements:
    """The instance as one of several of a SOP Class that is checked."""
    names = {_SOP_CLASS_UID: sop_class_uid, _SOP_INSTANCE_UID: f"1.2.3.{number}"}
    own = {tag: Stated(tag, "UI", text) for tag, text in names.items()}
    of = {id(image): Image({**image.stated, **own}, image.is_frame, image.places, image.groups)
          for image in (instance.top, *instance.images)}  # fmt: skip
    return dataclasses.replace(instance, top=of[id(instance.top)], images=tuple(of[id(i)] for i in instance.images))


def _sound_series() -> list[InstanceStatements]:
    found = []
    for number in range(_N_SOUND):
        ds = simulated()
        ds.ImageOrientationPatient, ds.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, 3.5 * number]
        ds.SpacingBetweenSlices, ds.SliceThickness, ds.PixelSpacing = "3.5", "3", ["1", "1"]
        ds.RepetitionTime, ds.EchoTime, ds.FlipAngle = "300", "2.46", "80"
        found.append(_named(read_statements(_file(ExplicitVRLittleEndian, encode(None, ds))), MRImageStorage, number))
    return found


_SOUND = _sound_series()


def seeds() -> Iterator[bytes]:
    """Real headers where they are at hand, simulated instances, and what pydicom brings to test itself with."""
    for number, (syntax, dataset) in enumerate(_seeds()):
        yield bytes([len(SYNTAXES) * (number % len(COMPANIES)) + _number(syntax)]) + dataset


def _seeds() -> Iterator[tuple[str, bytes]]:
    yield from instances()
    yield JPEGBaseline8Bit, encode()[:-44] + b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff" + _JPEG
    if not TEST_FILES.is_dir():
        return
    one_of_each_series = {path.parent: path for path in sorted(TEST_FILES.rglob("*")) if path.is_file()}
    for path in (*sorted(TEST_FILES.glob("*.dcm")), *one_of_each_series.values()):
        try:
            header, dataset = read_instance(path)
        except UnreadableInstance:
            continue
        if len(dataset) <= MAX_SEED_BYTES:
            yield header.transfer_syntax_uid, dataset


def _number(transfer_syntax_uid: str) -> int:
    known = UID(transfer_syntax_uid)
    return SYNTAXES.index(known) if known in SYNTAXES else SYNTAXES.index(JPEGBaseline8Bit)


# An empty offset table, and the first segments of a JPEG frame: T.81 B.2.2.
_JPEG = (
    b"\xfe\xff\x00\xe0\0\0\0\0" + b"\xfe\xff\x00\xe0\x18\0\0\0" + b"\xff\xd8\xff\xc0\0\x0b\x08\0\x04\0\x04\x01\1\x11\0"
    + bytes(9) + b"\xfe\xff\xdd\xe0\0\0\0\0"
)  # fmt: skip


def execute(data: bytes) -> None:
    """One input."""
    if not data:
        return
    file = _file(SYNTAXES[data[0] % len(SYNTAXES)], data[1:])
    try:
        read = read_statements(file)
    except UnreadableInstance as error:
        assert str(error), "no reason"
        assert len(str(error)) < 400, "a reason that repeats what came"
        return
    with contextlib.suppress(UnreadableInstance):  # the parameters are read from more elements, and decoded
        assert read_header_and_statements(file)[1] == read, "with its parameters, an instance states something else"
    _judge([read])
    sop_class_uid, is_odd = COMPANIES[data[0] // len(SYNTAXES) % len(COMPANIES)]
    if is_odd:
        _judge([*_SOUND, _named(read, sop_class_uid, _N_SOUND)])
    else:
        _judge([_SOUND[0], *(_named(read, sop_class_uid, _N_SOUND + number) for number in range(_N_ALIKE))])


def _judge(series: list[InstanceStatements]) -> None:
    findings = check_series(series)
    for finding in findings:
        _check(finding)
    assert check_series(series[::-1], CHECKS[::-1]) == findings, "the order of instances or checks matters"


def _check(finding: Finding) -> None:
    """Fit for a page, a log and a row."""
    assert finding.evidence and finding.evidence.isprintable(), finding
    assert len(finding.evidence) <= _LONGEST_EVIDENCE, finding
    for text in (finding.raw, finding.suggested_value or ""):
        text.encode()  # a lone surrogate cannot be, nor stored
        assert len(text) <= RAW_TEXT_LIMIT, finding
        assert "\0" not in text, "NUL, which PostgreSQL refuses"
