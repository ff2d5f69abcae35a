"""Part 10 files and encoded data sets: identity, oddities, bounds."""

from __future__ import annotations

import os
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from iap_node.dicom.elements import WINDOW_BYTES
from iap_node.dicom.part10 import (
    IMPLEMENTATION_CLASS_UID,
    file_preamble,
    is_safe_uid,
    read_instance,
    read_instance_header,
    scan_instance_header,
)
from iap_node.errors import UnreadableInstance

Make = Callable[..., Dataset]
Encode = Callable[..., bytes]

SYNTAXES = [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian]


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_header_is_read_in_every_native_encoding(make_mr: Make, encode: Encode, syntax: str) -> None:
    ds = make_mr(StudyDate="20240229", SeriesNumber="7", SeriesDescription="t1 fl3d", NumberOfFrames="1")
    header = scan_instance_header(encode(ds, syntax), syntax)
    assert header.sop_instance_uid == "1.2.3.4"
    assert header.series_instance_uid == "1.2.3.1"
    assert header.study_instance_uid == "1.2.3"
    assert header.transfer_syntax_uid == syntax
    assert (header.patient_id, header.study_date, header.modality) == ("P1", "20240229", "MR")
    assert (header.series_number, header.instance_number, header.number_of_frames) == (7, 1, 1)
    assert (header.rows, header.columns) == (2, 3)
    assert header.image_type == "ORIGINAL\\PRIMARY"


def test_deflated_data_set_is_read_and_inflated_no_further_than_needed(make_mr: Make, encode: Encode) -> None:
    plain = encode(make_mr()) + encode(Dataset())
    bomb = plain + bytes(64 * 1024**2)
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    data = deflater.compress(bomb) + deflater.flush()
    assert scan_instance_header(data, DeflatedExplicitVRLittleEndian).sop_instance_uid == "1.2.3.4"
    with pytest.raises(UnreadableInstance, match="no deflate stream"):
        scan_instance_header(b"\xff" * 100, DeflatedExplicitVRLittleEndian)


@pytest.mark.parametrize("wbits", [-zlib.MAX_WBITS, zlib.MAX_WBITS], ids=["raw", "with a zlib header"])
def test_deflated_header_behind_megabytes_of_private_data_is_read_from_a_stream_in_bounded_memory(
    make_mr: Make, encode: Encode, wbits: int
) -> None:
    ds = make_mr()
    ds.private_block(0x0009, "TEST", create=True).add_new(0x01, "OB", bytes(30_000_000))
    deflater = zlib.compressobj(wbits=wbits)
    data = deflater.compress(encode(ds)) + deflater.flush()
    tracemalloc.start()
    try:
        header = scan_instance_header(BytesIO(data), DeflatedExplicitVRLittleEndian)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (header.sop_instance_uid, header.series_instance_uid, header.columns) == ("1.2.3.4", "1.2.3.1", 3)
    assert peak < 2_000_000


def test_damaged_deflate_stream_is_refused_where_the_damage_is_met(make_mr: Make, encode: Encode) -> None:
    ds = make_mr()
    ds.private_block(0x0009, "TEST", create=True).add_new(0x01, "OB", os.urandom(1_000_000))
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    data = bytearray(deflater.compress(encode(ds)) + deflater.flush())
    data[500_000:600_000] = b"\xff" * 100_000
    with pytest.raises(UnreadableInstance, match="damaged"):
        scan_instance_header(bytes(data), DeflatedExplicitVRLittleEndian)


@pytest.mark.parametrize("length", [50_000_000, 0xFFFFFFFF], ids=["a length", "undefined length"])
def test_identity_that_is_written_as_a_huge_sequence_does_not_fill_the_memory(length: int) -> None:
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 49_999_992) + bytes(49_999_992)
    end = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0) if length == 0xFFFFFFFF else b""
    data = BytesIO(struct.pack("<HH2sHI", 0x0008, 0x0018, b"SQ", 0, length) + item + end)
    tracemalloc.start()
    try:
        with pytest.raises(UnreadableInstance):
            scan_instance_header(data, ExplicitVRLittleEndian)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_stream_and_bytes_give_the_same_header(make_mr: Make, encode: Encode, syntax: str) -> None:
    data = encode(make_mr(), syntax)
    stream = BytesIO(b"before" + data)
    stream.seek(6)
    assert scan_instance_header(stream, syntax) == scan_instance_header(data, syntax)


def test_reading_stops_before_the_pixels(make_mr: Make, encode: Encode) -> None:
    data = encode(make_mr())
    cut = data[: data.index(struct.pack("<HH", 0x0028, 0x0100)) + 3]
    assert scan_instance_header(cut, ExplicitVRLittleEndian).columns == 3


def test_value_that_the_end_cuts_off_is_none(make_mr: Make, encode: Encode) -> None:
    """Half a Series Instance UID is a UID too, of another series."""
    data = encode(make_mr(SeriesInstanceUID="1.2.3.4.5.6.7.8"))
    place = data.index(b"1.2.3.4.5.6.7.8")
    for end in range(place, place + 15):
        with pytest.raises(UnreadableInstance, match=r"Series Instance UID .* is absent"):
            scan_instance_header(data[:end], ExplicitVRLittleEndian)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_elements_that_lie_across_the_end_of_a_window_are_read(make_mr: Make, encode: Encode, syntax: str) -> None:
    for padding in range(WINDOW_BYTES - 300, WINDOW_BYTES, 2):
        ds = make_mr()
        ds.private_block(0x0009, "TEST", create=True).add_new(0x01, "OB", bytes(padding))
        data = encode(ds, syntax)
        for source in (data, BytesIO(data)):
            header = scan_instance_header(source, syntax)
            assert (header.study_instance_uid, header.series_instance_uid, header.columns) == ("1.2.3", "1.2.3.1", 3)


def test_view_of_an_instance_in_memory_is_not_copied(make_mr: Make, encode: Encode) -> None:
    ds = make_mr()
    ds.private_block(0x0009, "TEST", create=True).add_new(0x01, "OB", bytes(30_000_000))
    data = bytearray(b"before" + encode(ds))
    tracemalloc.start()
    try:
        header = scan_instance_header(memoryview(data)[6:], ExplicitVRLittleEndian)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert header.columns == 3
    assert peak < 1_000_000


@pytest.mark.parametrize(
    ("keyword", "text"),
    [
        ("SOPInstanceUID", r"SOP Instance UID \(0008,0018\) is absent"),
        ("SOPClassUID", r"SOP Class UID \(0008,0016\) of instance 1.2.3.4 is absent"),
        ("StudyInstanceUID", r"Study Instance UID \(0020,000D\) of instance 1.2.3.4 is absent"),
        ("SeriesInstanceUID", r"Series Instance UID \(0020,000E\) of instance 1.2.3.4 is absent"),
    ],
)
def test_missing_identity_is_refused_with_its_remedy(make_mr: Make, encode: Encode, keyword: str, text: str) -> None:
    with pytest.raises(UnreadableInstance, match=text + ".*correct it at the sender"):
        scan_instance_header(encode(make_mr(**{keyword: None})), ExplicitVRLittleEndian)


def test_identity_that_could_leave_its_folder_is_refused(make_mr: Make, encode: Encode) -> None:
    data = encode(make_mr(SOPInstanceUID="1.2.3.45678")).replace(b"1.2.3.45678", b"../../../ab")
    with pytest.raises(UnreadableInstance, match="is not a UID"):
        scan_instance_header(data, ExplicitVRLittleEndian)


def test_transfer_syntax_that_is_no_uid_is_refused() -> None:
    with pytest.raises(UnreadableInstance, match="Transfer Syntax UID"):
        scan_instance_header(b"", "../x")


@pytest.mark.parametrize("uid", ["1", "1.2.840.10008.1.2", "2.25." + "9" * 39, "0.01.2", "1." + "2" * 62])
def test_safe_uids(uid: str) -> None:
    assert is_safe_uid(uid)


@pytest.mark.parametrize(
    "uid", ["", ".", "..", "1.", ".1", "1..2", "1/2", "1.2\n", "1.2\0", "a", "1.2 ", "١.٢", "1." + "2" * 63]
)
def test_unsafe_uids(uid: str) -> None:
    assert not is_safe_uid(uid)


def test_numbers_that_are_none_are_none(make_mr: Make, encode: Encode) -> None:
    data = encode(make_mr(InstanceNumber="1234", SeriesNumber="5678", StudyDate="20240101"))
    data = data.replace(b"1234", b"1,5 ").replace(b"5678", b"*** ").replace(b"20240101", b"***     ")
    header = scan_instance_header(data, ExplicitVRLittleEndian)
    assert header.instance_number is None
    assert header.series_number is None
    assert header.study_date == ""


def test_number_beyond_32_bits_is_none(make_mr: Make, encode: Encode) -> None:
    data = encode(make_mr(InstanceNumber="1234567890")).replace(b"1234567890", b"9234567890")
    assert scan_instance_header(data, ExplicitVRLittleEndian).instance_number is None


def test_text_is_decoded_by_its_character_set(make_mr: Make, encode: Encode) -> None:
    for character_set, text in [
        ("ISO_IR 100", "Schädel"),
        ("ISO_IR 192", "乳腺"),
        ("ISO_IR 144", "Молочная"),
    ]:
        ds = make_mr(SpecificCharacterSet=character_set, SeriesDescription=text)
        assert scan_instance_header(encode(ds), ExplicitVRLittleEndian).series_description == text


def test_unknown_character_set_does_not_stop_the_header(make_mr: Make, encode: Encode) -> None:
    data = encode(make_mr(SpecificCharacterSet="ISO_IR 100", SeriesDescription="Schädel"))
    header = scan_instance_header(data.replace(b"ISO_IR 100", b"KLINGON_99"), ExplicitVRLittleEndian)
    assert header.series_description.startswith("Sch")


def test_nul_never_reaches_the_database(make_mr: Make, encode: Encode) -> None:
    data = encode(make_mr(SeriesDescription="abXcd ")).replace(b"abXcd ", b"ab\0cd\0")
    assert scan_instance_header(data, ExplicitVRLittleEndian).series_description == "ab cd"


def test_group_lengths_and_text_in_numbers_are_stepped_over(make_mr: Make, encode: Encode) -> None:
    ds = make_mr()
    ds.add_new(0x00430010, "LO", "GEMS_PARM_01")
    data = struct.pack("<HH2sHI", 8, 0, b"UL", 4, 400) + encode(ds)
    data = data.replace(b"GEMS_PARM_01", b"GEMS_PARM_01" + struct.pack("<HH2sH", 0x43, 0x1080, b"DS", 4) + b"8HRB")
    assert scan_instance_header(data, ExplicitVRLittleEndian).columns == 3


def nested(depth: int, implicit: bool = False) -> bytes:
    head = (
        struct.pack("<HHI", 0x0008, 0x1115, 0xFFFFFFFF)
        if implicit
        else struct.pack("<HH2sHI", 0x0008, 0x1115, b"SQ", 0, 0xFFFFFFFF)
    )
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    end = struct.pack("<HHIHHI", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
    return (head + item) * depth + end * depth


def insert_after_group_8(data: bytes, inserted: bytes) -> bytes:
    place = data.index(struct.pack("<HH", 0x0010, 0x0020))
    return data[:place] + inserted + data[place:]


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_nested_sequences_are_stepped_over(make_mr: Make, encode: Encode, syntax: str) -> None:
    data = insert_after_group_8(encode(make_mr(), syntax), nested(20, syntax == ImplicitVRLittleEndian))
    assert scan_instance_header(data, syntax).columns == 3


def test_private_sequence_of_unknown_vr_is_implicit_inside(make_mr: Make, encode: Encode) -> None:
    unknown = struct.pack("<HH2sHI", 0x0009, 0x1001, b"UN", 0, 0xFFFFFFFF)
    unknown += struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF) + struct.pack("<HHI", 0x0008, 0x0100, 4) + b"ABCD"
    unknown += struct.pack("<HHIHHI", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
    data = insert_after_group_8(encode(make_mr()), unknown)
    assert scan_instance_header(data, ExplicitVRLittleEndian).columns == 3


def test_sequences_nested_without_end_are_refused(make_mr: Make, encode: Encode) -> None:
    data = insert_after_group_8(encode(make_mr()), nested(100_000))
    with pytest.raises(UnreadableInstance, match="nested deeper"):
        scan_instance_header(data, ExplicitVRLittleEndian)


def test_explicit_data_set_under_the_implicit_syntax_is_recognised(make_mr: Make, encode: Encode) -> None:
    header = scan_instance_header(encode(make_mr(), ExplicitVRLittleEndian), ImplicitVRLittleEndian)
    assert header.columns == 3


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_bytes_are_refused_and_never_crash(make_mr: Make, encode: Encode, data: st.DataObject) -> None:
    syntax = data.draw(st.sampled_from(SYNTAXES))
    whole = bytearray(insert_after_group_8(encode(make_mr()), nested(3)) if syntax == SYNTAXES[0] else b"")
    whole = whole or bytearray(encode(make_mr(), syntax))
    for place in data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=8)):
        whole[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(whole)))
    try:
        header = scan_instance_header(bytes(whole[:cut]), syntax)
    except UnreadableInstance:
        return
    assert is_safe_uid(header.sop_instance_uid)
    assert is_safe_uid(header.series_instance_uid)


# ---------------------------------------------------------------- files


def test_file_preamble_and_untouched_data_set_are_a_part_10_file(make_mr: Make, encode: Encode) -> None:
    dataset = encode(make_mr())
    data = file_preamble("1.2.840.10008.5.1.4.1.1.4", "1.2.3.4", ExplicitVRLittleEndian, "SCANNER") + dataset
    ds = pydicom.dcmread(BytesIO(data))
    assert data.endswith(dataset)
    assert ds.file_meta.MediaStorageSOPInstanceUID == "1.2.3.4"
    assert ds.file_meta.MediaStorageSOPClassUID == "1.2.840.10008.5.1.4.1.1.4"
    assert ds.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert ds.file_meta.ImplementationClassUID == IMPLEMENTATION_CLASS_UID
    assert ds.file_meta.ImplementationVersionName == "IAP_NODE_01"
    assert ds.file_meta.SourceApplicationEntityTitle == "SCANNER"
    assert 132 + 12 + ds.file_meta.FileMetaInformationGroupLength == len(data) - len(dataset)
    assert ds.Rows == 2


def test_file_preamble_refuses_what_is_no_uid_and_cleans_the_title() -> None:
    with pytest.raises(UnreadableInstance, match="SOP Instance UID"):
        file_preamble("1.2", "../etc", "1.2.840.10008.1.2.1")
    meta = pydicom.dcmread(BytesIO(file_preamble("1.2", "1.3", "1.2.840.10008.1.2.1", "A\\B\nCé" + "X" * 30)))
    assert meta.file_meta.SourceApplicationEntityTitle == "ABC" + "X" * 13
    assert (
        "SourceApplicationEntityTitle"
        not in pydicom.dcmread(BytesIO(file_preamble("1.2", "1.3", "1.2.840.10008.1.2.1"))).file_meta
    )


@pytest.mark.parametrize("syntax", [*SYNTAXES, DeflatedExplicitVRLittleEndian])
def test_file_is_read_and_its_data_set_returned(make_mr: Make, write_mr: Callable[..., Path], syntax: str) -> None:
    path = write_mr(make_mr(), syntax)
    header, dataset = read_instance(path)
    assert header == read_instance_header(path)
    assert header == scan_instance_header(dataset, syntax)
    assert path.read_bytes().endswith(dataset)
    assert header.columns == 3


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_data_set_without_file_meta_is_read(make_mr: Make, encode: Encode, tmp_path: Path, syntax: str) -> None:
    path = tmp_path / "bare.dcm"
    path.write_bytes(encode(make_mr(), syntax))
    header, dataset = read_instance(path)
    assert header.transfer_syntax_uid == syntax
    assert dataset == path.read_bytes()


def test_file_meta_without_preamble_is_read(make_mr: Make, encode: Encode, tmp_path: Path) -> None:
    path = tmp_path / "no-preamble.dcm"
    path.write_bytes(file_preamble("1.2", "1.2.3.4", ExplicitVRLittleEndian)[132:] + encode(make_mr()))
    assert read_instance_header(path).columns == 3


def test_wrong_group_length_of_file_meta_is_survived(make_mr: Make, encode: Encode, tmp_path: Path) -> None:
    path = tmp_path / "wrong.dcm"
    preamble = bytearray(file_preamble("1.2", "1.2.3.4", ImplicitVRLittleEndian))
    place = preamble.index(struct.pack("<HH", 2, 2))
    preamble[140:144] = struct.pack("<I", place - 144)
    path.write_bytes(bytes(preamble) + encode(make_mr(), ImplicitVRLittleEndian))
    assert read_instance_header(path).transfer_syntax_uid == ImplicitVRLittleEndian


@pytest.mark.parametrize("content", [b"", b"hello", b"%PDF-1.7" + bytes(500), bytes(200), bytes(128) + b"DICM"])
def test_other_files_are_refused_without_naming_them(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "DOE^JANE.dcm"
    path.write_bytes(content)
    with pytest.raises(UnreadableInstance) as refused:
        read_instance_header(path)
    assert "DOE" not in str(refused.value)


def test_a_file_that_cannot_be_opened_is_no_damaged_instance(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_instance_header(tmp_path / "gone.dcm")
