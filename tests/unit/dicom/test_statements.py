"""What an instance states: raw text by classic tags, functional groups, and the pixel data that is really there."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian, RLELossless

from iap_node.audit.checks import check_series
from iap_node.dicom.header import read_header_dataset, read_series_header
from iap_node.dicom.statements import read_header_and_statements, read_statements
from iap_node.errors import UnreadableInstance

Make = Callable[..., Dataset]
Write = Callable[..., Path]
ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4.1"
ECHO_TIME, FLIP_ANGLE, POSITION, MATRIX = 0x00180081, 0x00181314, 0x00200032, 0x00181310


@pytest.mark.parametrize(
    "syntax",
    ["1.2.840.10008.1.2.1", ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian],
)
def test_a_classic_image_states_the_same_in_every_encoding(make_mr: Make, write_mr: Write, syntax: str) -> None:
    read = read_statements(write_mr(make_mr(FlipAngle="10.50"), syntax))
    image = read.images[0]
    assert image is read.top
    assert (image.text(ECHO_TIME), image.text(FLIP_ANGLE), image.number(FLIP_ANGLE)) == ("2.5", "10.50", 10.5)
    assert image.text(MATRIX) == "0\\448\\381\\0"
    assert image.terms(0x00180022) == ("PFP", "FS")
    assert image.stated[MATRIX].vr == "US"
    assert image.stated[ECHO_TIME].vr == "DS"
    assert (read.transfer_syntax_uid, read.sop_instance_uid) == (syntax, "1.2.3.4")
    assert read.pixels is not None
    assert (read.pixels.stated_bytes, read.pixels.bytes_there) == (12, 12)


@pytest.mark.parametrize("text", ["1,5 ", "nan ", "inf ", "1.5T", "*** ", "1\\5 "])
def test_what_is_no_number_stays_text_and_becomes_a_finding(
    make_mr: Make, write_mr: Write, tmp_path: Path, text: str
) -> None:
    path = write_mr(make_mr(SliceThickness="1.25"))
    path.write_bytes(path.read_bytes().replace(b"1.25", text.encode()))
    read = read_statements(path)
    assert read.top.text(0x00180050) == text.strip()
    assert read.top.number(0x00180050) is None
    findings = [finding for finding in check_series([read]) if finding.element == "SliceThickness"]
    assert [finding.raw for finding in findings] == [text.strip()]
    assert findings[0].kind == "representation"


def test_absent_empty_and_unknown_are_told_apart(make_mr: Make, write_mr: Write) -> None:
    top = read_statements(write_mr(make_mr(EchoTime=None, ScanOptions=""))).top
    assert top.get(ECHO_TIME) is None
    stated = top.get(0x00180022)
    assert stated is not None
    assert stated.raw == ""
    assert top.terms(0x00180022) == ()


def test_nothing_that_names_a_patient_is_read(make_mr: Make, write_mr: Write) -> None:
    ds = make_mr(
        PatientName="Doe^Jane", PatientID="SECRET7", PatientBirthDate="19700101", InstitutionName="St. Elsewhere"
    )
    read = read_statements(write_mr(ds))
    for secret in ("Doe", "SECRET7", "19700101", "Elsewhere"):
        assert secret not in repr(read)


def test_text_beyond_what_a_value_may_hold_is_cut_off(make_mr: Make, write_mr: Write) -> None:
    read = read_statements(write_mr(make_mr(ProtocolName="x" * 4000)))
    assert len(read.top.text(0x00181030)) == 1024


def _enhanced(make_mr: Make, **elements: object) -> Dataset:
    """Three frames of one enhanced image: shared timing, two echo times, three positions."""
    ds = make_mr(
        np.zeros((3, 4, 4), np.uint16),
        SOPClassUID=ENHANCED_MR,
        **dict.fromkeys(("EchoTime", "RepetitionTime", "FlipAngle", "SliceThickness", "PixelSpacing")),
        **dict.fromkeys(("ImagePositionPatient", "ImageOrientationPatient", "AcquisitionMatrix")),
    )
    shared = Dataset()
    timing, geometry, measures, orientation = Dataset(), Dataset(), Dataset(), Dataset()
    timing.RepetitionTime, timing.FlipAngle = "5.25", "10"
    geometry.InPlanePhaseEncodingDirection = "ROW"
    geometry.MRAcquisitionFrequencyEncodingSteps, geometry.MRAcquisitionPhaseEncodingStepsInPlane = 448, 381
    measures.SliceThickness, measures.PixelSpacing = "1.5", ["2", "2"]
    orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    shared.MRTimingAndRelatedParametersSequence = Sequence([timing])
    shared.MRFOVGeometrySequence = Sequence([geometry])
    shared.PixelMeasuresSequence = Sequence([measures])
    shared.PlaneOrientationSequence = Sequence([orientation])
    per_frame = []
    for number, echo_time in enumerate((2.5, 2.5, 5.0)):
        frame, echo, position = Dataset(), Dataset(), Dataset()
        echo.EffectiveEchoTime = echo_time
        position.ImagePositionPatient = ["0", "0", str(2 * number)]
        frame.MREchoSequence = Sequence([echo])
        frame.PlanePositionSequence = Sequence([position])
        per_frame.append(frame)
    ds.SharedFunctionalGroupsSequence = Sequence([shared])
    ds.PerFrameFunctionalGroupsSequence = Sequence(per_frame)
    for name, value in elements.items():
        setattr(ds, name, value)
    return ds


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.1", ImplicitVRLittleEndian])
def test_functional_groups_are_read_by_the_classic_tags(make_mr: Make, write_mr: Write, syntax: str) -> None:
    read = read_statements(write_mr(_enhanced(make_mr), syntax))
    assert [image.number(ECHO_TIME) for image in read.images] == [2.5, 5.0]
    assert [len(image.places) for image in read.images] == [2, 1]
    assert read.images[1].places[0][POSITION].raw == "0\\0\\4"
    first = read.images[0]
    assert (first.number(0x00180080), first.text(0x00280030), first.text(MATRIX)) == (5.25, "2\\2", "0\\448\\381\\0")
    assert first.stated[ECHO_TIME].tag == 0x00189082
    assert first.text(0x00180087) == "3"
    assert (read.n_frames, read.has_shared) == (3, True)
    assert {0x00289110, 0x00209113, 0x00189112} <= first.groups


def test_groups_are_believed_before_the_top_level(make_mr: Make, write_mr: Write) -> None:
    read = read_statements(write_mr(_enhanced(make_mr, RepetitionTime="7")))
    assert (read.top.number(0x00180080), read.images[0].number(0x00180080)) == (7.0, 5.25)


def test_an_enhanced_image_without_groups_is_its_top_level(make_mr: Make, write_mr: Write) -> None:
    read = read_statements(write_mr(make_mr(SOPClassUID=ENHANCED_MR)))
    assert read.images == (read.top,)
    assert read.n_frames is None


def test_pixels_that_are_cut_off_are_counted(make_mr: Make, write_mr: Write) -> None:
    path = write_mr(make_mr())
    path.write_bytes(path.read_bytes()[:-5])
    pixels = read_statements(path).pixels
    assert pixels is not None
    assert (pixels.stated_bytes, pixels.bytes_there) == (12, 7)


def test_an_image_without_pixels_has_none(make_mr: Make, write_mr: Write) -> None:
    assert read_statements(write_mr(make_mr(PixelData=None))).pixels is None


def _encapsulated(make_mr: Make, frames: list[bytes]) -> Dataset:
    ds = make_mr(np.zeros((len(frames), 4, 4), np.uint16))
    ds.PixelData = encapsulate(frames)
    ds["PixelData"].is_undefined_length = True
    return ds


def test_fragments_are_counted_and_the_first_is_looked_at(make_mr: Make, write_mr: Write) -> None:
    jpeg = b"\xff\xd8\xff\xc3\x00\x0b\x0c\x00\x04\x00\x06\x01\x01\x11\x00\xff\xd9\x00"
    pixels = read_statements(write_mr(_encapsulated(make_mr, [jpeg] * 3), "1.2.840.10008.1.2.4.70")).pixels
    assert pixels is not None
    assert (pixels.stated_bytes, pixels.fragments, pixels.is_complete) == (None, 3, True)
    assert pixels.codestream == (4, 6, 1, 12)


def test_fragments_beyond_the_end_of_the_file_are_not_complete(make_mr: Make, write_mr: Write) -> None:
    path = write_mr(_encapsulated(make_mr, [b"\x01" * 64] * 3), RLELossless)
    path.write_bytes(path.read_bytes()[:-40])
    pixels = read_statements(path).pixels
    assert pixels is not None
    assert (pixels.fragments, pixels.is_complete) == (2, False)


def test_tiles_and_private_creators_are_read(make_mr: Make, write_mr: Write) -> None:
    ds = make_mr(np.zeros((6, 6), np.uint16), ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"])
    block = ds.private_block(0x0019, "SIEMENS MR HEADER", create=True)
    block.add_new(0x0A, "US", 4)
    read = read_statements(write_mr(ds))
    assert read.grid is not None
    assert (read.grid.count, read.grid.tile_rows) == (4, 3)
    assert read.creators == {"SIEMENS MR HEADER"}


def test_a_mosaic_without_its_count_has_a_problem_and_no_grid(make_mr: Make, write_mr: Write) -> None:
    read = read_statements(write_mr(make_mr(ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"])))
    assert read.grid is None
    assert "without its number of tiles" in read.grid_problem


def test_equal_values_are_kept_once(make_mr: Make, write_mr: Write) -> None:
    one, other = (read_statements(write_mr(make_mr(SOPInstanceUID=f"1.2.3.{number}"))) for number in range(2))
    assert one.top.stated[ECHO_TIME] is other.top.stated[ECHO_TIME]
    assert one.sop_instance_uid != other.sop_instance_uid


@pytest.mark.parametrize("kind", ["classic", "enhanced", "encapsulated"])
def test_damaged_bytes_are_read_or_refused_and_checked_whatever_they_say(
    make_mr: Make, write_mr: Write, tmp_path: Path, kind: str
) -> None:
    made = {
        "classic": lambda: make_mr(),
        "enhanced": lambda: _enhanced(make_mr),
        "encapsulated": lambda: _encapsulated(make_mr, [b"\xff\xd8\xff\xc3" * 8] * 2),
    }[kind]()
    sound = write_mr(made, RLELossless if kind == "encapsulated" else "1.2.840.10008.1.2.1").read_bytes()
    rng = random.Random(5)
    path, read = tmp_path / "damaged.dcm", 0
    for _ in range(400):
        damaged = bytearray(sound)
        for _ in range(rng.choice((1, 3, 12))):
            place = rng.randrange(132, len(damaged))
            damaged[place : place + 4] = rng.choice(
                (b"\xff\xff\xff\xff", b"\0\0\0\0", b"1e99", b"nan ", rng.randbytes(4))
            )
        path.write_bytes(damaged[: rng.randrange(200, len(damaged) + 1)] if rng.random() < 0.2 else damaged)
        try:
            check_series([read_statements(path)])
        except UnreadableInstance:
            continue
        read += 1
    assert 0 < read < 400


def test_what_is_no_dicom_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "note.txt"
    path.write_text("not an image")
    with pytest.raises(UnreadableInstance):
        read_statements(path)


def test_header_and_statements_read_at_once_are_those_read_apart(mr_real: Path) -> None:
    folders = ("uih_umr770_t1_gre_3d_sag_study2", "philips_elition_r571_enh_pcasl_same_scan_as_classic")
    for path in (sorted((mr_real / folder).iterdir())[0] for folder in folders):
        ds, statements = read_header_and_statements(path)
        assert statements == read_statements(path)
        assert read_series_header([ds]) == read_series_header([read_header_dataset(path)])
