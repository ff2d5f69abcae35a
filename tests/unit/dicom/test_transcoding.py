"""Instances in another transfer syntax: pydicom reads what was stored and what was made of it, and finds the same.

Not covered here: what a peer takes (tests/integration/routing/test_transcoding_destination.py).
"""

from __future__ import annotations

import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from iap_node.dicom.frames import FrameKind, native_frame
from iap_node.dicom.transcoding import TARGETS, can_transcode, transcoded
from iap_node.errors import UnreadableInstance, UnreadablePixels

LIMIT = 2**31
DESCRIBES_PIXELS = {0x7FE00010, 0x00280004, 0x00280006, 0x00282110}
REAL = {  # of pydicom: written by somebody else, each in a transfer syntax of its own
    "MR_small_RLE.dcm": 0,
    "MR_small_jp2klossless.dcm": 0,
    "MR_small_jpeg_ls_lossless.dcm": 0,
    "MR_small_bigendian.dcm": 0,
    "image_dfl.dcm": 0,
    "rtdose_rle.dcm": 0,  # 15 frames of 32 bits
    "rtdose_expb.dcm": 0,
    "SC_rgb_rle_16bit.dcm": 0,
    "SC_rgb_rle_2frame.dcm": 0,
    "SC_rgb_gdcm_KY.dcm": 0,  # JPEG 2000, colour
    "SC_rgb_small_odd_jpeg.dcm": 3,  # with losses: decoders may differ by their rounding
    "SC_rgb_jpeg_dcmtk.dcm": 3,
    "JPEG-lossy.dcm": 1,
}


def compress(frames: np.ndarray, syntax: str, bits: int) -> bytes:
    """Frames (n, rows, columns) as encapsulated pixel data."""
    if syntax == JPEG2000Lossless:
        coded = [imagecodecs.jpeg2k_encode(one, level=0, codecformat="j2k", reversible=True) for one in frames]
    elif syntax == HTJ2KLossless:
        coded = [imagecodecs.htj2k_encode(one, reversible=True) for one in frames]
    elif syntax == JPEGLSLossless:
        coded = [imagecodecs.jpegls_encode(one) for one in frames]
    else:
        coded = [imagecodecs.jpeg8_encode(one, lossless=True, bitspersample=bits, predictor=1) for one in frames]
    return encapsulate(coded, fragments_per_frame=2)


def public_values(ds: Dataset) -> dict[int, Any]:
    """What stays: implicit VR does not say what private elements are."""
    kept = [one for one in ds if one.tag.element and not one.tag.is_private and one.tag not in DESCRIBES_PIXELS]
    return {one.tag: one.value for one in kept}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", REAL)
def test_instances_of_other_writers_hold_the_same_pixels_and_the_same_header(name: str, target: str) -> None:
    path = Path(str(get_testdata_file(name)))
    before = path.read_bytes()
    old, new = dcmread(path), dcmread(transcoded(path, target, LIMIT))
    assert new.file_meta.TransferSyntaxUID == target
    assert new.file_meta.MediaStorageSOPInstanceUID == new.SOPInstanceUID == old.SOPInstanceUID
    try:
        expected = old.pixel_array.astype(np.int64)
    except (RuntimeError, AttributeError):  # a referee that has no decoder for it
        expected = None
    pixels = new.pixel_array.astype(np.int64)
    assert expected is None or np.abs(pixels - expected).max() <= REAL[name]
    assert public_values(new) == public_values(old)
    assert path.read_bytes() == before


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, HTJ2KLossless, JPEGLSLossless, JPEGLosslessSV1, RLELossless])
@pytest.mark.parametrize("signed", [False, True])
def test_all_frames_of_a_multi_frame_image_are_decoded_to_the_bit(
    make_mr: Any, write_mr: Any, syntax: str, signed: bool
) -> None:
    rng = np.random.default_rng(1)
    frames = rng.integers(-2048 if signed else 0, 2048 if signed else 4096, (3, 10, 14))
    coded = (frames & 0x0FFF).astype(np.uint16)
    ds = make_mr(coded[0])
    ds.NumberOfFrames, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 3, 12, 11, int(signed)
    if syntax == RLELossless:
        ds.PixelData = (frames & 0xFFFF).astype("<u2").tobytes()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.compress(RLELossless, generate_instance_uid=False)
    else:
        ds.PixelData = compress(coded, syntax, 12)
        ds["PixelData"].VR = "OB"
    path = write_mr(ds, syntax)
    for target in TARGETS:
        new = dcmread(transcoded(path, target, LIMIT))
        np.testing.assert_array_equal(new.pixel_array, frames)
        assert len(new.PixelData) == frames.size * 2
        assert (new.BitsAllocated, new.BitsStored, new.PixelRepresentation) == (16, 12, int(signed))


@pytest.mark.parametrize("source", [ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_numbers_change_their_byte_order_everywhere_and_text_stays_what_it_was(
    make_mr: Any, write_mr: Any, source: str
) -> None:
    kind = ">u2" if source == ExplicitVRBigEndian else "<u2"
    ds = make_mr(np.arange(64, dtype=kind).reshape(8, 8), PixelRepresentation=0)
    item = Dataset()
    item.ReferencedFrameNumber = [1, 2]
    item.RealWorldValueSlope, item.SelectorUSValue, item.PixelPaddingValue = 0.5, [258, 772], 300
    ds.ReferencedImageSequence = Sequence([item])
    ds.add_new(0x00091001, "FD", [1.5, 2.5])
    ds.add_new(0x00090010, "LO", "MAKER")
    ds.PatientComments = "a" * 70000
    path = write_mr(ds, source)
    explicit, implicit = (dcmread(transcoded(path, target, LIMIT)) for target in TARGETS)
    for new in (explicit, implicit):
        (inner,) = new.ReferencedImageSequence
        assert (inner.ReferencedFrameNumber, inner.SelectorUSValue) == ([1, 2], [258, 772])
        assert (inner.RealWorldValueSlope, inner.PixelPaddingValue) == (0.5, 300)
        assert len(new.PatientComments) == 70000
        np.testing.assert_array_equal(new.pixel_array.ravel(), np.arange(64))
    private = explicit[0x00091001].value
    if source == ImplicitVRLittleEndian:  # nobody says what it is
        assert private == np.array([1.5, 2.5]).tobytes()
    else:
        assert private == [1.5, 2.5]


def test_an_image_with_losses_says_so_and_is_rgb() -> None:
    path = get_testdata_file("examples_ybr_color.dcm")
    new = dcmread(transcoded(Path(str(path)), ExplicitVRLittleEndian, LIMIT))
    assert (new.PhotometricInterpretation, new.PlanarConfiguration) == ("RGB", 0)
    assert new.LossyImageCompression == "01"
    assert new.pixel_array.shape == (30, 240, 320, 3)


def test_a_small_picture_in_the_header_is_left_out_where_it_is_compressed(make_mr: Any, write_mr: Any) -> None:
    ds = make_mr(np.zeros((8, 8), np.uint16))
    icon = Dataset()
    icon.Rows = icon.Columns = 8
    icon.add_new(0x7FE00010, "OB", encapsulate([b"\xff\xd8\xff\xd9"]))
    icon[0x7FE00010].is_undefined_length = True
    ds.IconImageSequence = Sequence([icon])
    ds.PixelData = compress(np.zeros((1, 8, 8), np.uint16), JPEGLSLossless, 16)
    ds["PixelData"].VR = "OB"
    new = dcmread(transcoded(write_mr(ds, JPEGLSLossless), ExplicitVRLittleEndian, LIMIT))
    assert "IconImageSequence" not in new
    assert not new.pixel_array.any()


def test_what_is_damaged_too_large_or_of_no_decoder_is_told_before_anything_is_made(
    make_mr: Any, write_mr: Any, tmp_path: Path
) -> None:
    ds = make_mr(np.zeros((8, 8), np.uint16))
    ds.NumberOfFrames = 2
    ds.PixelData = compress(np.zeros((1, 8, 8), np.uint16), JPEGLSLossless, 16)
    ds["PixelData"].VR = "OB"
    path = write_mr(ds, JPEGLSLossless)
    with pytest.raises(UnreadablePixels, match="1 of the 2 frames"):
        transcoded(path, ExplicitVRLittleEndian, LIMIT)
    with pytest.raises(UnreadablePixels, match="max_bytes_per_instance = 100"):
        transcoded(path, ExplicitVRLittleEndian, 100)
    whole = write_mr(make_mr(np.zeros((8, 8), np.uint16)), ExplicitVRLittleEndian)
    cut = tmp_path / "cut.dcm"
    cut.write_bytes(whole.read_bytes()[:-10])
    with pytest.raises(UnreadableInstance, match="cut off"):
        transcoded(cut, ImplicitVRLittleEndian, LIMIT)
    video = "1.2.840.10008.1.2.4.102"
    assert can_transcode(JPEGBaseline8Bit)
    assert not can_transcode(video)
    with pytest.raises(UnreadablePixels, match=video):
        transcoded(write_mr(ds, video), ExplicitVRLittleEndian, LIMIT)


def test_what_is_made_is_a_file_at_its_start(make_mr: Any, write_mr: Any) -> None:
    ds = make_mr(np.zeros((8, 8), np.uint16))
    del ds.PixelData
    made = transcoded(write_mr(ds, ExplicitVRLittleEndian), ImplicitVRLittleEndian, LIMIT)
    assert isinstance(made, BytesIO)
    assert made.tell() == 0
    assert dcmread(made).SOPInstanceUID == ds.SOPInstanceUID


def test_deflated_frames_are_inflated_and_no_further_than_a_frame_is_long() -> None:
    cells = np.arange(64, dtype="<u2").tobytes()
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    deflated = deflater.compress(cells + bytes(10**6)) + deflater.flush()
    kind = FrameKind("1.2.840.10008.1.2.8.1", 8, 8, 1, 16, 16, False, "MONOCHROME2")
    assert native_frame(deflated, kind) == cells
    with pytest.raises(UnreadablePixels, match="damaged"):
        native_frame(b"\xff" * 8, kind)
