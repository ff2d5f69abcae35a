"""Pixels that once did what they must not: found by tests/fuzz, kept as tests."""

from __future__ import annotations

import struct
import subprocess
import sys

import pytest

DECODE = """
import sys
from pydicom.uid import RLELossless
from iap_node.dicom import codestreams
try:
    codestreams.decode(
        bytes.fromhex(sys.argv[1]), RLELossless, rows=4, columns=4, bits_allocated=16, bits_stored=16, signed=False
    )
except codestreams.UnreadablePixels as error:
    print(error)
"""


@pytest.mark.parametrize("offset", [68, 69, 1 << 20, 0xEA000042, 0xFFFFFFFF])
def test_rle_segment_beyond_the_end_of_the_frame_is_refused(offset: int) -> None:
    """imagecodecs reads there, which once killed the process; so this runs in one of its own."""
    frame = struct.pack("<3I52x", 2, 64, offset) + b"\xf1\0\xf1\0"
    done = subprocess.run([sys.executable, "-c", DECODE, frame.hex()], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "cannot be decoded" in done.stdout
