"""Corrected copies of real series: only what is corrected differs, and dciodvfy finds no error but the original's."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file

from iap_node.correction.copies import Original
from iap_node.dicom.part10 import read_instance_header
from tests.unit.correction.conftest import copies_of, top_level_elements

CREATION = {0x00080012, 0x00080013, 0x00080014}
OWN = {0x00080018, 0x0020000E, 0x0018A001, 0x04000561} | CREATION
SHARED, PER_FRAME = 0x52009229, 0x52009230

# folder, settings, which elements of the data set may differ beside those of every copy
SERIES = [
    ("ge_signa_architect_dv27_b0map", ["RepetitionTime=2500", "FlipAngle=9"], {0x00180080, 0x00181314}),
    ("siemens_trio_b17_epi_cor_mosaic", ["EchoTime=31", "AcquisitionMatrix=96x96"], {0x00180081, 0x00181310}),
    ("siemens_prismafit_xa30_enh_asl_2d", ["RepetitionTime=2500", "EchoTime=2.5"], {SHARED, PER_FRAME}),
    ("siemens_prismafit_xa30_enh_gre_fieldmap_phase", ["AcquisitionMatrix=96x96"], {SHARED, PER_FRAME}),
    ("philips_elition_r571_enh_pcasl_same_scan_as_classic", ["FlipAngle=9"], {SHARED, PER_FRAME}),
    ("toshiba_mrt50h1_no_fieldstrength_bigendian_and_j2k", ["MagneticFieldStrength=0.5"], {0x00180087}),
    ("siemens_trio_b17_epi_mb2_mosaic_jpeg_lossless", ["PatientPosition=HFP"], {0x00185100}),
    ("siemens_trio_b17_same_image_9_transfer_syntaxes", ["ManufacturerModelName[*]=Trio"], {0x00081090}),
    ("uih_umr770_dti_vframe_mosaic_study2", ["ImagingFrequency[*]=123.2"], {0x00180084}),
    ("canon_galan3t_v61_dti_axial", ["ContrastBolusAgent=GADAVIST"], {0x00180010}),
]  # fmt: skip


def originals_in(folder: Path) -> tuple[list[Original], str]:
    """The first three instances of a folder, and their series."""
    found, series = [], ""
    for number, path in enumerate(sorted(path for path in folder.iterdir() if path.is_file())[:3], 1):
        header = read_instance_header(path)
        series = header.series_instance_uid
        found.append(Original(number, header.sop_class_uid, header.sop_instance_uid, header.transfer_syntax_uid, path))
    return found, series


def errors(dciodvfy: str, path: Path) -> set[str]:
    done = subprocess.run([dciodvfy, "-new", str(path)], capture_output=True, text=True, errors="replace", check=False)
    kept = re.compile(r"OriginalAttributesSequence\(0400,0561\)\[\d\]/ModifiedAttributesSequence\(0400,0550\)\[1\]/")
    # an error of the original, in the old value that its copy keeps, is no new one
    return {kept.sub("", line) for line in done.stderr.splitlines() if line.startswith("Error")}


@pytest.mark.parametrize(("folder", "settings", "differ"), SERIES, ids=[name for name, *_ in SERIES])
def test_a_copy_differs_in_what_is_corrected_only_and_conforms_as_its_original_does(
    folder: str,
    settings: list[str],
    differ: set[int],
    mr_real: Path,
    program: Callable[[str, str], str],
    tmp_path: Path,
) -> None:
    originals, series = originals_in(mr_real / folder)
    copies = copies_of(originals, *settings, series=series)
    assert copies.plan.survey.changes_something
    copy = tmp_path / "copy.dcm"
    assert len(originals) >= 1
    for index, original in enumerate(originals):
        copy.write_bytes(copies.content(index))
        old, new = top_level_elements(original.file), top_level_elements(copy)
        changed = {tag for tag in old.keys() | new.keys() if old.get(tag) != new.get(tag)}
        assert changed <= OWN | differ
        assert changed & differ
        assert new.keys() >= old.keys() - CREATION
        assert len(dcmread(copy).OriginalAttributesSequence[-1].ModifiedAttributesSequence) == 1
    dciodvfy = program("dciodvfy", "dicom3tools")
    assert errors(dciodvfy, copy) <= errors(dciodvfy, original.file)


def test_functional_groups_keep_every_element_that_is_not_corrected(mr_real: Path) -> None:
    originals, series = originals_in(mr_real / "siemens_prismafit_xa30_enh_asl_2d")
    copies = copies_of(originals, "RepetitionTime=2500", "EchoTime[*]=2.5", series=series)
    before, after = dcmread(originals[0].file), copies.read()
    assert after.SharedFunctionalGroupsSequence[0].MRTimingAndRelatedParametersSequence[0].RepetitionTime == 2500
    corrected = {(0x0018, 0x0080), (0x0018, 0x9082)}
    pairs = [
        (before.SharedFunctionalGroupsSequence, after.SharedFunctionalGroupsSequence),
        (before.PerFrameFunctionalGroupsSequence, after.PerFrameFunctionalGroupsSequence),
    ]
    n_same = 0
    while pairs:
        one, other = pairs.pop()
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            assert left.keys() == right.keys()
            for tag in left.keys():  # noqa: SIM118
                if left[tag].VR == "SQ":
                    pairs.append((left[tag].value, right[tag].value))
                elif (tag.group, tag.element) not in corrected:
                    assert left[tag].value == right[tag].value
                    n_same += 1
    assert n_same > 500


@pytest.mark.parametrize(
    "name", ["MR_small_bigendian.dcm", "MR_small_implicit.dcm", "MR_small_RLE.dcm", "image_dfl.dcm"]
)
def test_files_of_other_makers_keep_their_encoding(name: str, tmp_path: Path) -> None:
    path = Path(get_testdata_file(name, download=False))
    header = read_instance_header(path)
    original = Original(1, header.sop_class_uid, header.sop_instance_uid, header.transfer_syntax_uid, path)
    copies = copies_of([original], "SeriesDescription=corrected", series=header.series_instance_uid)
    copy = tmp_path / "copy.dcm"
    copy.write_bytes(copies.content())
    old, new = top_level_elements(path), top_level_elements(copy)
    assert {tag for tag in old.keys() | new.keys() if old.get(tag) != new.get(tag)} <= OWN | {0x0008103E}
    ds = dcmread(copy)
    assert ds.SeriesDescription == "corrected"
    assert ds.file_meta.TransferSyntaxUID == header.transfer_syntax_uid
    assert ds.PixelData == dcmread(path).PixelData
