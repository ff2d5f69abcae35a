"""Slices of a series: choice, order, decoding, mosaics, and bounds before allocation."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from iap_node.dicom.codestreams import codestream_header
from iap_node.dicom.file_slice import FileSlice, InstanceFile
from iap_node.dicom.pixels import SeriesPixels, read_series_slices

Make = Callable[..., Dataset]
Write = Callable[..., Path]
Array = npt.NDArray[Any]

ENCODERS: dict[str, Callable[[Array], bytes]] = {
    JPEG2000Lossless: lambda a: bytes(imagecodecs.jpeg2k_encode(a, level=0, codecformat="j2k", reversible=True)),
    JPEGLSLossless: lambda a: bytes(imagecodecs.jpegls_encode(a)),
    JPEGLosslessSV1: lambda a: bytes(imagecodecs.ljpeg_encode(a, bitspersample=a.dtype.itemsize * 8)),
}


def read(
    paths: Sequence[InstanceFile], max_slices: int = 100, max_pixels: int = 4096**2, max_bytes: int = 2**31
) -> SeriesPixels:
    return read_series_slices(
        paths, max_slices=max_slices, max_pixels_per_slice=max_pixels, max_bytes_per_instance=max_bytes
    )


def compress(ds: Dataset, frames: Sequence[bytes]) -> Dataset:
    ds.PixelData = encapsulate(list(frames))
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    return ds


def flat(value: int, dtype: Any = np.uint16) -> Array:
    return np.full((2, 3), value, dtype)


def values(pixels: SeriesPixels) -> list[float]:
    return [float(one.flat[0]) for one in pixels.slices]


# ---------------------------------------------------------------- choice and order


def test_slices_come_in_spatial_order_whatever_the_order_of_files(make_mr: Make, write_mr: Write) -> None:
    places = [5, 1, 4, 2, 3]
    paths = [write_mr(make_mr(flat(z), ImagePositionPatient=[0, 0, z], InstanceNumber=str(9 - z))) for z in places]
    pixels = read(paths)
    assert values(pixels) == [1, 2, 3, 4, 5]
    assert pixels.n_available == 5
    assert pixels.problems == ()
    assert all(one.dtype == np.float32 and one.shape == (2, 3) for one in pixels.slices)


def test_order_follows_the_normal_of_an_oblique_stack(make_mr: Make, write_mr: Write) -> None:
    sagittal = [0, 1, 0, 0, 0, -1]  # its normal points to -x
    paths = [
        write_mr(make_mr(flat(10 + x), ImagePositionPatient=[x, 7, 9], ImageOrientationPatient=sagittal))
        for x in (1, 3, 2)
    ]
    assert values(read(paths)) == [13, 12, 11]


def test_without_positions_the_instance_number_orders_then_the_files(make_mr: Make, write_mr: Write) -> None:
    paths = [write_mr(make_mr(flat(n), ImagePositionPatient=None, InstanceNumber=str(n))) for n in (3, 10, 1, 2)]
    assert values(read(paths)) == [1, 2, 3, 10]
    paths = [write_mr(make_mr(flat(n), ImagePositionPatient=None, InstanceNumber=None)) for n in (4, 2)]
    assert values(read(paths)) == [4, 2]


def test_chosen_slices_are_evenly_spaced(make_mr: Make, write_mr: Write) -> None:
    paths = [write_mr(make_mr(flat(z), ImagePositionPatient=[0, 0, z])) for z in range(20)]
    pixels = read(paths, max_slices=4)
    assert values(pixels) == [2, 7, 12, 17]
    assert pixels.n_available == 20


def test_a_localiser_of_three_planes_keeps_its_stacks_together(make_mr: Make, write_mr: Write) -> None:
    planes = {10: [1, 0, 0, 0, 1, 0], 20: [0, 1, 0, 0, 0, -1], 30: [1, 0, 0, 0, 0, -1]}
    paths = [
        write_mr(make_mr(flat(base + i), ImagePositionPatient=[-i, i, i], ImageOrientationPatient=orientation))
        for i in (1, 2)
        for base, orientation in planes.items()
    ]
    assert values(read(paths)) == [11, 12, 21, 22, 31, 32]


def test_frames_of_an_enhanced_object_are_ordered_and_read_alone(make_mr: Make, write_mr: Write) -> None:
    stack = np.arange(5, dtype=np.uint16)[:, None, None] * np.ones((1, 2, 3), np.uint16)
    ds = make_mr(
        stack,
        SOPClassUID="1.2.840.10008.5.1.4.1.1.4.1",
        ImagePositionPatient=None,
        ImageOrientationPatient=None,
    )
    ds.SharedFunctionalGroupsSequence = DicomSequence([Dataset()])
    ds.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence = DicomSequence([Dataset()])
    ds.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0].ImageOrientationPatient = [
        1,
        0,
        0,
        0,
        1,
        0,
    ]
    frames = []
    for z in (30, 10, 50, 20, 40):
        frame, plane = Dataset(), Dataset()
        plane.ImagePositionPatient = [0, 0, z]
        frame.PlanePositionSequence = DicomSequence([plane])
        frames.append(frame)
    ds.PerFrameFunctionalGroupsSequence = DicomSequence(frames)
    path = write_mr(ds)
    assert values(read([path])) == [1, 3, 0, 4, 2]
    assert values(read([path], max_slices=1)) == [0]


# ---------------------------------------------------------------- values


@pytest.mark.parametrize(
    "syntax",
    [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian],
)
@pytest.mark.parametrize("dtype", [np.uint16, np.int16])
def test_native_pixels_of_every_encoding(make_mr: Make, write_mr: Write, syntax: str, dtype: Any) -> None:
    pixels = np.array([[0, 1, 300], [32767, -5 if dtype is np.int16 else 65535, 7]], dtype)
    ds = make_mr(pixels)
    if syntax == ExplicitVRBigEndian:
        ds.PixelData = pixels.astype(pixels.dtype.newbyteorder(">")).tobytes()
    assert np.array_equal(read([write_mr(ds, syntax)]).slices[0], pixels.astype(np.float32))


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint32, np.int32])
def test_cells_of_8_and_32_bits(make_mr: Make, write_mr: Write, dtype: Any) -> None:
    pixels = np.array([[0, 1, 2], [100, 127, 7]]).astype(dtype) * (1 if np.dtype(dtype).kind == "u" else -1)
    assert np.array_equal(read([write_mr(make_mr(pixels.astype(dtype)))]).slices[0], pixels.astype(np.float32))


def test_bytes_of_big_endian_words_are_swapped_back_for_odd_frames(make_mr: Make, write_mr: Write) -> None:
    stack = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)  # frames of 9 bytes: the second starts in mid-word
    ds = make_mr(stack)
    ds.PixelData = np.frombuffer(stack.tobytes() + b"\0", np.uint16).byteswap().tobytes()
    path = write_mr(ds, ExplicitVRBigEndian)
    for chosen, expected in zip(read([path]).slices, stack, strict=True):
        assert np.array_equal(chosen, expected)


def test_unused_high_bits_are_dropped_and_signs_extended(make_mr: Make, write_mr: Write) -> None:
    overlay = np.array([[0xF005, 0x1005, 0x0FFF]], np.uint16)
    unsigned = write_mr(make_mr(overlay, BitsStored=12, HighBit=11))
    assert read([unsigned]).slices[0].tolist() == [[5, 5, 4095]]
    signed = write_mr(make_mr(overlay, BitsStored=12, HighBit=11, PixelRepresentation=1))
    assert read([signed]).slices[0].tolist() == [[5, 5, -1]]
    shifted = write_mr(make_mr(np.array([[0xABC0]], np.uint16), BitsStored=12, HighBit=15))
    assert read([shifted]).slices[0].tolist() == [[0xABC]]


def test_monochrome1_is_inverted_so_that_air_is_dark(make_mr: Make, write_mr: Write) -> None:
    ds = make_mr(np.array([[4095, 4000, 95]], np.uint16), PhotometricInterpretation="MONOCHROME1")
    assert read([write_mr(ds)]).slices[0].tolist() == [[0, 95, 4000]]


def test_a_constant_rescale_is_left_out_and_a_varying_one_applied(make_mr: Make, write_mr: Write) -> None:
    def series(slopes: Sequence[str]) -> list[Path]:
        return [
            write_mr(make_mr(flat(10), ImagePositionPatient=[0, 0, z], RescaleSlope=slope, RescaleIntercept="-4"))
            for z, slope in enumerate(slopes)
        ]

    assert values(read(series(["2", "2"]))) == [10, 10]
    assert values(read(series(["2", "3"]))) == [16, 26]


@pytest.mark.parametrize("syntax", [*ENCODERS, RLELossless])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_compressed_pixels_decode_to_what_was_encoded(make_mr: Make, write_mr: Write, syntax: str, dtype: Any) -> None:
    rng = np.random.default_rng(1)
    stack = rng.integers(0, np.iinfo(dtype).max, (3, 20, 16), endpoint=True).astype(dtype)
    ds = make_mr(stack)
    if syntax == RLELossless:
        ds.compress(RLELossless, arr=stack, generate_instance_uid=False)
    else:
        compress(ds, [ENCODERS[syntax](one) for one in stack])
    pixels = read([write_mr(ds, syntax)])
    assert pixels.problems == ()
    for chosen, expected in zip(pixels.slices, stack, strict=True):
        assert np.array_equal(chosen, expected.astype(np.float32))


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, RLELossless])
def test_signed_compressed_pixels_keep_their_sign(make_mr: Make, write_mr: Write, syntax: str) -> None:
    pixels = np.array([[-1024, -1, 0, 1], [5, 6, 7, 3071], [1, 2, 3, 4], [0, 0, 0, -7]], np.int16)
    ds = make_mr(pixels)
    if syntax == RLELossless:
        ds.compress(RLELossless, arr=pixels, generate_instance_uid=False)
    else:
        compress(ds, [ENCODERS[JPEG2000Lossless](pixels)])
    assert np.array_equal(read([write_mr(ds, syntax)]).slices[0], pixels)


# ---------------------------------------------------------------- mosaics

TILES = np.arange(1, 8, dtype=np.uint16)  # seven tiles on a grid of three by three


def sheet(grid_rows: int, grid_columns: int, count: int, tile: tuple[int, int] = (2, 3)) -> Array:
    whole = np.zeros((grid_rows * tile[0], grid_columns * tile[1]), np.uint16)
    for i in range(count):
        top, left = i // grid_columns * tile[0], i % grid_columns * tile[1]
        whole[top : top + tile[0], left : left + tile[1]] = i + 1
    return whole


def csa_header(count: int) -> bytes:
    def entry(name: bytes, texts: Sequence[bytes]) -> bytes:
        data = name.ljust(64, b"\0") + struct.pack("<i4sii i", 1, b"US\0\0", 6, len(texts), 77)
        for text in texts:
            data += struct.pack("<4i", len(text), len(text), 77, len(text)) + text + bytes(-len(text) % 4)
        return data

    entries = entry(b"EchoLinePosition", [b"32\0", b""]) + entry(b"NumberOfImagesInMosaic", [b"%d\0" % count])
    return b"SV10\4\3\2\1" + struct.pack("<II", 2, 77) + entries


@pytest.mark.parametrize("source", ["element", "implicit", "csa"])
def test_siemens_mosaic_is_cut_and_its_empty_tiles_dropped(make_mr: Make, write_mr: Write, source: str) -> None:
    ds = make_mr(sheet(3, 3, 7), ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"])
    if source == "csa":
        ds.private_block(0x0029, "SIEMENS CSA HEADER", create=True).add_new(0x10, "OB", csa_header(7))
    else:
        ds.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0A, "US", 7)
    path = write_mr(ds, ImplicitVRLittleEndian if source == "implicit" else ExplicitVRLittleEndian)
    pixels = read([path])
    assert values(pixels) == list(TILES)
    assert all(one.shape == (2, 3) and (one == one.flat[0]).all() for one in pixels.slices)
    assert values(read([path], max_slices=3)) == [2, 4, 6]


def test_united_imaging_frames_sheet_is_cut(make_mr: Make, write_mr: Write) -> None:
    ds = make_mr(sheet(4, 5, 18), ImageType=["ORIGINAL", "PRIMARY", "M", "VFRAME"])
    ds.private_block(0x0065, "Image Private Header", create=True).add_new(0x50, "DS", "18")
    assert values(read([write_mr(ds)])) == list(range(1, 19))


def test_tiles_of_many_volumes_are_spread_over_the_positions(make_mr: Make, write_mr: Write) -> None:
    paths = []
    for volume in range(10):
        ds = make_mr(sheet(2, 2, 4), ImageType=["ORIGINAL", "PRIMARY", "MOSAIC"], InstanceNumber=str(volume))
        ds.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0A, "US", 4)
        paths.append(write_mr(ds))
    pixels = read(paths, max_slices=4)
    assert pixels.n_available == 40
    assert values(pixels) == [1, 2, 3, 4]


def test_mosaic_that_cannot_be_cut_is_a_problem_and_never_a_slice(make_mr: Make, write_mr: Write) -> None:
    unknown = make_mr(sheet(3, 3, 7), ImageType=["ORIGINAL", "PRIMARY", "MOSAIC"])
    uneven = make_mr(sheet(3, 3, 7)[:5], ImageType=["ORIGINAL", "PRIMARY", "MOSAIC"])
    uneven.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0A, "US", 7)
    pixels = read([write_mr(unknown), write_mr(uneven)])
    assert pixels.slices == ()
    assert "number of tiles" in pixels.problems[0][1]
    assert "do not divide" in pixels.problems[1][1]


# ---------------------------------------------------------------- what cannot be read


def test_colour_float_and_empty_instances_are_problems_with_reasons(make_mr: Make, write_mr: Write) -> None:
    colour = make_mr(np.zeros((2, 9), np.uint8), Columns=3, SamplesPerPixel=3, PhotometricInterpretation="RGB")
    palette = make_mr(PhotometricInterpretation="PALETTE COLOR")
    without = make_mr(PixelData=None)
    floats = make_mr(PixelData=None)
    floats.FloatPixelData = np.zeros((2, 3), np.float32).tobytes()
    pixels = read([write_mr(one) for one in (colour, palette, without, floats)])
    assert pixels.slices == ()
    assert pixels.n_available == 0
    reasons = [reason for _, reason in pixels.problems]
    assert "colour" in reasons[0]
    assert "PALETTE COLOR" in reasons[1]
    assert "no pixels" in reasons[2]
    assert "floating point" in reasons[3]


def test_a_file_cut_off_in_its_pixels_is_a_problem_and_the_rest_goes_on(make_mr: Make, write_mr: Write) -> None:
    paths = [write_mr(make_mr(flat(z + 1), ImagePositionPatient=[0, 0, z])) for z in range(3)]
    paths[1].write_bytes(paths[1].read_bytes()[:-4])
    pixels = read(paths)
    assert values(pixels) == [1, 3]
    assert [path for path, _ in pixels.problems] == [paths[1]]
    assert "cut off" in pixels.problems[0][1]


@pytest.mark.parametrize(
    "claims",
    [
        {"Rows": 65535, "Columns": 65535},
        {"NumberOfFrames": "999999"},
        {"NumberOfFrames": "-1"},
        {"NumberOfFrames": "2147483647"},
        {"Rows": 0},
        {"BitsAllocated": 64},
        {"BitsAllocated": 1, "BitsStored": 1, "HighBit": 0},
        {"BitsStored": 0},
        {"BitsStored": 12, "HighBit": 3},
        {"HighBit": 16},
    ],
)
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, JPEG2000Lossless])
def test_claims_of_a_header_are_checked_before_memory_is_allocated(
    make_mr: Make, write_mr: Write, claims: dict[str, Any], syntax: str
) -> None:
    ds = make_mr(np.zeros((20, 16), np.uint16))
    if syntax == JPEG2000Lossless:
        compress(ds, [ENCODERS[syntax](np.zeros((20, 16), np.uint16))])
    for keyword, value in claims.items():
        setattr(ds, keyword, value)
    path = write_mr(ds, syntax)
    tracemalloc.start()
    pixels = read([path], max_pixels=4096**2, max_bytes=2**28)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert pixels.slices == ()
    assert pixels.problems
    assert peak < 2**28


def test_limits_are_named_where_they_stop_an_instance(make_mr: Make, write_mr: Write) -> None:
    path = write_mr(make_mr(np.zeros((20, 16), np.uint16)))
    assert "max_pixels_per_slice = 319" in read([path], max_pixels=319).problems[0][1]
    assert "max_bytes_per_instance = 639" in read([path], max_bytes=639).problems[0][1]
    assert len(read([path], max_pixels=320, max_bytes=640).slices) == 1


@pytest.mark.parametrize("syntax", list(ENCODERS))
def test_a_codestream_of_another_size_is_refused_before_decoding(make_mr: Make, write_mr: Write, syntax: str) -> None:
    ds = compress(make_mr(np.zeros((20, 16), np.uint16)), [ENCODERS[syntax](np.zeros((40, 16), np.uint16))])
    pixels = read([write_mr(ds, syntax)])
    assert pixels.slices == ()
    assert "codestream holds 40 x 16 x 1, its header says 20 x 16 x 1" in pixels.problems[0][1]


@pytest.mark.parametrize("syntax", list(ENCODERS))
def test_codestreams_state_their_size(syntax: str) -> None:
    header = codestream_header(ENCODERS[syntax](np.zeros((40, 16), np.uint16)))
    assert header == (40, 16, 1, 16)


def test_one_damaged_frame_is_replaced_by_its_neighbour(make_mr: Make, write_mr: Write) -> None:
    stack = np.arange(6, dtype=np.uint16)[:, None, None] * np.ones((1, 20, 16), np.uint16)
    frames = [ENCODERS[JPEG2000Lossless](one) for one in stack]
    frames[1] = b"\0\1" * 20
    ds = compress(make_mr(stack, ImagePositionPatient=None), frames)
    path = write_mr(ds, JPEG2000Lossless)
    pixels = read([path], max_slices=3)
    assert values(pixels) == [2, 3, 5]
    assert pixels.n_available == 6
    assert pixels.problems[0][0] == path
    assert values(read([path])) == [0, 2, 3, 4, 5]


def test_nothing_left_is_an_empty_answer(make_mr: Make, write_mr: Write, tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("not DICOM")
    assert read([text]).slices == ()
    assert "not a DICOM file" in read([text]).problems[0][1]
    assert read([]) == SeriesPixels((), 0, ())


def in_one_segment(paths: Sequence[Path], segment: Path) -> list[FileSlice]:
    """The same files one behind the other in one file, without anything between them."""
    contents = [path.read_bytes() for path in paths]
    segment.write_bytes(b"".join(contents))
    starts = [sum(map(len, contents[:index])) for index in range(len(contents))]
    return [FileSlice(segment, start, len(content)) for start, content in zip(starts, contents, strict=True)]


def test_series_in_one_segment_reads_as_its_files(make_mr: Make, write_mr: Write, tmp_path: Path) -> None:
    stack = np.arange(960, dtype=np.uint16).reshape(3, 20, 16)
    syntaxes = (ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian, *ENCODERS, RLELossless)
    paths = []
    for z, syntax in enumerate(syntaxes):
        ds = make_mr(stack, ImagePositionPatient=[0, 0, z])
        if syntax == RLELossless:
            ds.compress(RLELossless, arr=stack, generate_instance_uid=False)
        elif syntax in ENCODERS:
            compress(ds, [ENCODERS[syntax](frame) for frame in stack])
        paths.append(write_mr(ds, syntax))
    files, parts = read(paths), read(in_one_segment(paths, tmp_path / "one.seg"))
    assert files.problems == parts.problems == ()
    assert len(files.slices) == 3 * len(syntaxes)
    assert all(np.array_equal(one, other) for one, other in zip(files.slices, parts.slices, strict=True))


def test_instance_that_is_cut_off_does_not_go_on_in_its_neighbour(
    make_mr: Make, write_mr: Write, tmp_path: Path
) -> None:
    paths = [write_mr(make_mr(flat(z), ImagePositionPatient=[0, 0, z])) for z in (1, 2)]
    first, second = in_one_segment(paths, tmp_path / "one.seg")
    short = replace(first, length=first.length - 2)
    pixels = read([short, second])
    assert values(pixels) == [2]
    assert [(file, "cut off" in reason) for file, reason in pixels.problems] == [(short, True)]


def test_a_missing_file_is_an_error_of_the_disk_and_no_problem_of_the_instance(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read([tmp_path / "gone.dcm"])


def test_an_unknown_transfer_syntax_is_a_problem(make_mr: Make, write_mr: Write) -> None:
    ds = compress(make_mr(np.zeros((20, 16), np.uint16)), [b"\x12\x34" * 30])
    path = write_mr(ds, JPEG2000Lossless)
    path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.4.90", b"1.2.840.99999.1.2.4.90"))
    assert "no readable start" in read([path]).problems[0][1]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_are_problems_and_never_crash(make_mr: Make, write_mr: Write, data: st.DataObject) -> None:
    syntax = data.draw(st.sampled_from([ExplicitVRLittleEndian, ImplicitVRLittleEndian, *ENCODERS, RLELossless]))
    plain = np.arange(320, dtype=np.uint16).reshape(20, 16)
    ds = make_mr(plain)
    if syntax == RLELossless:
        ds.compress(RLELossless, arr=plain, generate_instance_uid=False)
    elif syntax in ENCODERS:
        compress(ds, [ENCODERS[syntax](plain)])
    path = write_mr(ds, syntax, name="damaged.dcm")
    whole = bytearray(path.read_bytes())
    for place in data.draw(st.lists(st.integers(300, len(whole) - 1), max_size=6)):
        whole[place] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(whole[: data.draw(st.integers(300, len(whole)))]))
    pixels = read([path], max_slices=4, max_bytes=2**24)
    assert len(pixels.slices) <= 4
    assert pixels.slices or pixels.problems
