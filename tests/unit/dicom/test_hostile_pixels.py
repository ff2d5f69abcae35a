"""Pixels that once did what they must not: found by tests/fuzz, kept as tests."""

from __future__ import annotations

import struct
import subprocess
import sys
import tracemalloc

import pytest
from pydicom.uid import JPEGLosslessSV1, RLELossless

from iap_node.dicom.codestreams import decode
from iap_node.errors import UnreadablePixels

DECODE = """
import sys
from iap_node.dicom import codestreams
try:
    codestreams.decode(
        bytes.fromhex(sys.argv[1]), sys.argv[2], rows=4, columns=4, bits_allocated=16, bits_stored=16, signed=False
    )
except codestreams.UnreadablePixels as error:
    print(error)
"""


# The marker of its Huffman table became another one, so that it has none.
DAMAGED_LOSSLESS_JPEG = bytes.fromhex(
    "ffd8ff260017000101010100000000000000000000000008090710ffc3000b100004000401001100ffda00080100000000899364d92c8321"
    "90c8b20c864322c832190c80ffd9"
)


def decode_elsewhere(frame: bytes, transfer_syntax_uid: str) -> str:
    """What is said about a damaged frame, by a process of its own: a decoder may kill it."""
    done = subprocess.run(
        [sys.executable, "-c", DECODE, frame.hex(), transfer_syntax_uid], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("offset", [68, 1 << 20, 0xEA000042])
def test_rle_segment_beyond_the_end_of_the_frame_is_refused(offset: int) -> None:
    """imagecodecs reads there."""
    frame = struct.pack("<3I52x", 2, 64, offset) + b"\xf1\0\xf1\0"
    assert "cannot be decoded" in decode_elsewhere(frame, RLELossless)


def test_damaged_lossless_jpeg_is_refused() -> None:
    """imagecodecs' ljpeg_decode does not survive it."""
    assert "cannot be decoded" in decode_elsewhere(DAMAGED_LOSSLESS_JPEG, JPEGLosslessSV1)


def test_rle_segments_of_different_lengths_are_read_as_far_as_they_agree() -> None:
    """Together they are half a cell too long, which was nobody's error."""
    frame = struct.pack("<3I52x", 2, 64, 68) + b"\xf1\x02\x00\x07" + b"\xf1\x01"
    cells, _ = decode(frame, RLELossless, rows=4, columns=4, bits_allocated=16, bits_stored=16, signed=False)
    assert set(cells[:, :3].ravel()) == {0x0201}


def test_rle_frame_that_is_too_short_is_refused() -> None:
    """pylibjpeg-rle panics, and Rust's panic is no Exception."""
    frame = struct.pack("<3I52x", 2, 64, 66) + b"\xff\x02" + b"\xff\x01"
    assert "cannot be decoded" in decode_elsewhere(frame, RLELossless)


def test_rle_frame_swells_no_further_than_its_size() -> None:
    frame = struct.pack("<3I52x", 2, 64, 64 + 100_000) + b"\x81\x07" * 100_000
    tracemalloc.start()
    try:
        with pytest.raises(UnreadablePixels):
            decode(frame, RLELossless, rows=4, columns=4, bits_allocated=16, bits_stored=16, signed=False)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
