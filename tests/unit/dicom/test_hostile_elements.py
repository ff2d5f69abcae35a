"""Bytes that once did what they must not: found by tests/fuzz, kept as tests."""

from __future__ import annotations

import tracemalloc
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from iap_node.dicom import elements as el
from iap_node.dicom.header import read_header_dataset, read_series_header
from iap_node.dicom.part10 import MAX_HEADER_ELEMENTS, read_instance_header, scan_instance_header
from iap_node.dicom.values import items
from iap_node.errors import UnreadableInstance

Make = Callable[..., Dataset]
Encode = Callable[..., bytes]


def element(group: int, number: int, vr: bytes, value: bytes) -> bytes:
    header = group.to_bytes(2, "little") + number.to_bytes(2, "little") + vr
    if vr in el.LONG_VRS:
        return header + bytes(2) + len(value).to_bytes(4, "little") + value
    return header + len(value).to_bytes(2, "little") + value


@pytest.mark.parametrize("character_set", [b"unicode_escape", b"raw_unicode_escape", b"utf_7"])
def test_text_of_a_codec_that_makes_surrogates_can_be_stored(
    make_mr: Make, encode: Encode, character_set: bytes
) -> None:
    """Specific Character Set may name any codec of Python's, by way of pydicom."""
    ds = make_mr()
    ds.add_new(0x00080005, "CS", character_set.decode())
    ds.add_new(0x00100020, "LO", b"\xe9\\ud800+2AA-")
    header = scan_instance_header(encode(ds), ExplicitVRLittleEndian)
    assert header.patient_id.encode()


def test_sequence_that_claims_to_be_numbers_of_a_broken_length_has_no_items() -> None:
    raw = element(0x5200, 0x9230, b"US", b"abc")
    stream = BytesIO(raw)
    encoding = el.Encoding(implicit=False, little=True)
    found, _ = el.walk(stream, encoding, frozenset({0x52009230}), 0xFFFFFFFF)
    assert items(el.excerpt(found, encoding), 0x52009230) == []


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_header_of_a_million_empty_elements_is_refused_long_before_its_end(syntax: str) -> None:
    """80 KB of a deflate stream can hold ten million of them, which once kept a processor busy for a quarter of a
    minute."""
    if syntax in el.DEFLATED:
        deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        dataset = deflater.compress(element(0x0008, 0x0001, b"UL", b"") * 1_000_000) + deflater.flush()
    else:
        dataset = bytes(8) * 1_000_000
    with pytest.raises(UnreadableInstance, match=f"more than {MAX_HEADER_ELEMENTS} elements before the pixels"):
        scan_instance_header(dataset, syntax)


def test_identity_written_as_a_huge_sequence_does_not_fill_the_memory_when_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "hostile.dcm"
    path.write_bytes(element(0x0008, 0x0018, b"SQ", bytes(64 * 1024**2)))
    tracemalloc.start()
    try:
        with pytest.raises(UnreadableInstance):
            read_instance_header(path)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_empty_element_of_a_vr_of_noise_is_empty(make_mr: Make, encode: Encode, tmp_path: Path) -> None:
    """It once cost a whole series its judgement."""
    model_name = element(0x0008, 0x1090, b"LO", b"Skyra ")
    dataset = encode(make_mr())
    assert model_name in dataset
    path = tmp_path / "hostile.dcm"
    path.write_bytes(dataset.replace(model_name, b"\x08\0\x90\x10L\0" + bytes(6)))
    values = {value.keyword: value.raw for value in read_series_header([read_header_dataset(path)]).values}
    assert values["ManufacturerModelName"] == ""
