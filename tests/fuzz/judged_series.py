"""Fuzz target: a series as a worker reads it, of a sound instance and one that a listener stored whatever it is.

An input is a byte that chooses the transfer syntax and the bytes of a data set. Whatever they are: a header whose
values can be shown and stored, slices of finite numbers within the limits, a reason for what cannot be read, and no
other error, since that would cost the whole series its judgement. Compressed syntaxes are left out but for RLE: what
their decoders, which are not ours, do with damaged bytes is for those who wrote them.
"""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from typing import BinaryIO, cast

import numpy as np
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from iap_node.dicom.codestreams import ENCAPSULATED_UNCOMPRESSED
from iap_node.dicom.file_slice import InstanceFile
from iap_node.dicom.header import read_header_dataset, read_series_header
from iap_node.dicom.part10 import file_preamble
from iap_node.dicom.pixels import read_series_slices
from iap_node.errors import UnreadableInstance
from tests.fuzz.instances import SOP_INSTANCE_UID, encode, instances, simulated

SYNTAXES = (
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    ENCAPSULATED_UNCOMPRESSED,
    RLELossless,
)
_MAX_PIXELS, _MAX_BYTES, _MAX_SLICES = 10_000, 100_000, 3


class _FileInMemory:
    """What is asked of an `InstanceFile`."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def open(self, mode: str = "rb") -> BinaryIO:
        return BytesIO(self._content)


def _file(transfer_syntax_uid: str, dataset: bytes) -> InstanceFile:
    preamble = file_preamble("1.2.840.10008.5.1.4.1.1.4", SOP_INSTANCE_UID, transfer_syntax_uid)
    return cast(InstanceFile, _FileInMemory(preamble + dataset))


_SOUND = _file(ExplicitVRLittleEndian, encode())


def seeds() -> Iterator[bytes]:
    """Whole simulated instances, and headers of real ones with a few pixels behind them."""
    for number, syntax in enumerate(SYNTAXES):
        yield bytes([number]) + encode(syntax if syntax in (ImplicitVRLittleEndian, ExplicitVRBigEndian) else None)
    ds = simulated()
    ds.NumberOfFrames, ds.PixelData = 3, bytes(96)
    ds.ImageOrientationPatient, ds.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, 1]
    ds.RescaleSlope, ds.RescaleIntercept, ds.PixelSpacing = "2", "1", ["1", "1"]
    yield b"\1" + encode(None, ds)
    fragment = b"\xfe\xff\x00\xe0"
    offsets = fragment + bytes(4)
    rle = b"\2\0\0\0" + b"\x40\0\0\0" + b"\x42\0\0\0" + bytes(52) + b"\xf1\0\xf1\0"
    pixels = b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff" + offsets + fragment + len(rle).to_bytes(4, "little") + rle
    yield b"\5" + encode()[:-44] + pixels + b"\xfe\xff\xdd\xe0" + bytes(4)
    for syntax, dataset in instances():
        if syntax in SYNTAXES and syntax != DeflatedExplicitVRLittleEndian:
            yield bytes([SYNTAXES.index(syntax)]) + dataset


def execute(data: bytes) -> None:
    """One input."""
    if not data:
        return
    file = _file(SYNTAXES[data[0] % len(SYNTAXES)], data[1:])
    datasets = [read_header_dataset(_SOUND)]
    try:
        datasets.append(read_header_dataset(file))
    except UnreadableInstance as error:
        assert str(error), "no reason"
    for value in read_series_header(datasets).values:
        value.raw.encode()
        value.problem.encode()
        if isinstance(value.canonical, float):
            assert np.isfinite(value.canonical), value
        elif value.canonical is not None:
            value.canonical.encode()
    pixels = read_series_slices(
        [_SOUND, file],
        max_slices=_MAX_SLICES, max_pixels_per_slice=_MAX_PIXELS, max_bytes_per_instance=_MAX_BYTES,
    )  # fmt: skip
    assert 1 <= len(pixels.slices) <= _MAX_SLICES, "the sound instance is lost"
    for one in pixels.slices:
        assert one.dtype == np.float32
        assert one.ndim == 2
        assert 0 < one.size <= _MAX_PIXELS
        assert np.isfinite(one).all(), "a pixel that is no number"
    assert all(reason for _, reason in pixels.problems), "no reason"
    assert _SOUND not in dict(pixels.problems)
