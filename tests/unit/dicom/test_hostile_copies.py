"""Copies of damaged instances: whatever the bytes, they are made or refused with an error of the node's own."""

from __future__ import annotations

import random
from collections import Counter
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom.data import get_testdata_file

from iap_node.deidentification.copies import DeidentifiedInstance
from iap_node.deidentification.pseudonyms import Pseudonyms
from iap_node.dicom.transcoding import TARGETS, transcoded
from iap_node.errors import UnreadableInstance, UnreadablePixels, UnsendableInstance

NAMES = (
    "MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm", "MR_small_bigendian.dcm",
    "MR_small_implicit.dcm", "image_dfl.dcm", "SC_rgb_rle_2frame.dcm", "SC_rgb_jpeg_dcmtk.dcm", "CT_small.dcm",
)  # fmt: skip
LIMIT = 2**26
PSEUDONYMS = Pseudonyms.of_node(b"k" * 32)


class InMemory:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def open(self, mode: str = "rb") -> Any:
        return BytesIO(self.content)


def damaged(content: bytes, rng: random.Random) -> bytes:
    """A few bytes changed, gone or too many, more often in the header than in the pixels."""
    changed = bytearray(content)
    for _ in range(rng.randint(1, 6)):
        place = rng.randrange(132, min(len(changed), rng.choice((1000, len(changed)))))
        kind = rng.random()
        if kind < 0.8:
            changed[place] = rng.choice((0, 255, rng.randrange(256)))
        elif kind < 0.9:
            del changed[place : place + rng.randint(1, 40)]
        else:
            changed[place:place] = rng.randbytes(rng.randint(1, 20))
    return bytes(changed)


@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_instance_is_copied_or_refused_and_nothing_else(name: str) -> None:
    whole = Path(str(get_testdata_file(name))).read_bytes()
    rng = random.Random(name)
    outcomes: Counter[str] = Counter()
    for _ in range(25):
        file: Any = InMemory(damaged(whole, rng))
        try:
            transcoded(file, rng.choice(TARGETS), LIMIT)
            outcomes["made"] += 1
        except (UnreadableInstance, UnreadablePixels):
            outcomes["refused"] += 1
        try:
            with DeidentifiedInstance(file, frozenset(), PSEUDONYMS, LIMIT).open() as stream:
                stream.read()
            outcomes["made"] += 1
        except (UnreadableInstance, UnsendableInstance):
            outcomes["refused"] += 1
    assert outcomes["made"] and outcomes["refused"]
