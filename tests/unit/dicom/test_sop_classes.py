"""What is stored, and what is not analysed."""

from __future__ import annotations

import subprocess
import sys

import pytest

from iap_node.dicom import sop_classes
from iap_node.dicom.sop_classes import STORAGE_SOP_CLASSES, TRANSFER_SYNTAXES, why_not_analysed
from iap_node.dicom.status import StoreStatus, is_accepted, is_permanent
from iap_node.records import InstanceHeader


def header(sop_class_uid: str, modality: str = "MR", rows: int | None = 256, image_type: str = "") -> InstanceHeader:
    return InstanceHeader(
        sop_class_uid=sop_class_uid,
        sop_instance_uid="1.1",
        study_instance_uid="1.2",
        series_instance_uid="1.3",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        modality=modality,
        rows=rows,
        columns=rows,
        image_type=image_type,
    )


def test_mr_and_everything_that_comes_with_it_is_stored() -> None:
    stored = set(STORAGE_SOP_CLASSES)
    assert len(stored) == len(STORAGE_SOP_CLASSES) > 150
    assert stored >= sop_classes.MR_IMAGE_SOP_CLASSES
    for uid in (
        sop_classes.MR_SPECTROSCOPY_STORAGE,
        sop_classes.RAW_DATA_STORAGE,
        sop_classes.ENHANCED_MR_COLOR_IMAGE_STORAGE,
        "1.2.840.10008.5.1.4.1.1.2",  # CT
        "1.2.840.10008.5.1.4.1.1.7",  # Secondary Capture
        "1.2.840.10008.5.1.4.1.1.88.33",  # Comprehensive SR
        "1.2.840.10008.5.1.4.1.1.11.1",  # presentation state
        "1.2.840.10008.5.1.4.1.1.6",  # Ultrasound, retired
    ):
        assert uid in stored


@pytest.mark.parametrize(
    "uid",
    [
        "1.2.840.10008.1.3.10",  # Media Storage Directory
        "1.2.840.10008.1.20.1",  # Storage Commitment
        "1.2.840.10008.5.1.4.38.1",  # Hanging Protocol
        "1.2.840.10008.1.1",  # Verification
        "1.2.840.10008.5.1.4.1.2.2.1",  # Study Root FIND
    ],
)
def test_what_has_no_series_is_not_stored(uid: str) -> None:
    assert uid not in STORAGE_SOP_CLASSES


def test_transfer_syntaxes_hold_the_retired_ones_and_none_without_pixels() -> None:
    for uid in ("1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.70"):
        assert uid in TRANSFER_SYNTAXES
    assert "1.2.840.10008.1.2.4.94" not in TRANSFER_SYNTAXES  # JPIP Referenced
    assert not [uid for uid in TRANSFER_SYNTAXES if uid.startswith(("1.2.840.10008.1.2.6", "1.2.840.10008.1.2.7"))]


@pytest.mark.parametrize("sop_class_uid", sorted(sop_classes.MR_IMAGE_SOP_CLASSES))
def test_mr_images_are_analysed_localisers_included(sop_class_uid: str) -> None:
    assert why_not_analysed(header(sop_class_uid)) is None
    assert why_not_analysed(header(sop_class_uid, image_type="ORIGINAL\\PRIMARY\\LOCALIZER")) is None
    assert why_not_analysed(header(sop_class_uid, modality="")) is None


@pytest.mark.parametrize(
    ("sop_class_uid", "modality", "words"),
    [
        (sop_classes.RAW_DATA_STORAGE, "MR", "raw data"),
        (sop_classes.MR_SPECTROSCOPY_STORAGE, "MR", "spectra"),
        (sop_classes.ENHANCED_MR_COLOR_IMAGE_STORAGE, "MR", "colour"),
        ("1.2.840.10008.5.1.4.1.1.88.33", "SR", "Comprehensive SR Storage with Modality SR"),
        ("1.2.840.10008.5.1.4.1.1.11.1", "PR", "not an MR image"),
        ("1.2.840.10008.5.1.4.1.1.2", "CT", "CT Image Storage"),
        ("1.2.840.10008.5.1.4.1.1.7", "MR", "Secondary Capture"),
        (sop_classes.MR_IMAGE_STORAGE, "CT", "contradict"),
        ("1.9.9.9", "", "1.9.9.9"),
    ],
)
def test_everything_else_is_kept_with_its_reason(sop_class_uid: str, modality: str, words: str) -> None:
    reason = why_not_analysed(header(sop_class_uid, modality))
    assert reason is not None
    assert words in reason
    assert reason.endswith(".")


def test_mr_image_without_rows_is_no_image() -> None:
    assert "Rows" in (why_not_analysed(header(sop_classes.MR_IMAGE_STORAGE, rows=None)) or "")


def test_warnings_are_accepted_and_failures_told_apart() -> None:
    assert is_accepted(StoreStatus.SUCCESS)
    assert all(is_accepted(status) for status in (0xB000, 0xB006, 0xB007, 0x0001, 0x0107))
    assert not any(is_accepted(status) for status in (0xA700, 0xA900, 0xC000, 0x0110, 0x0122, 0xFE00))
    assert all(is_permanent(status) for status in (0xA900, 0xA9FF, 0xC000, 0xCFFF, 0x0122, 0x0117))
    assert not any(is_permanent(status) for status in (0x0000, 0xA700, 0xA7FF, 0x0110, 0xB000, 0x0213))


@pytest.mark.parametrize("first", ["iap_node.dicom.sop_classes", "pynetdicom"])
def test_what_is_accepted_does_not_depend_on_what_was_imported_first(first: str) -> None:
    program = (
        f"import {first}, pynetdicom; from iap_node.dicom.sop_classes import TRANSFER_SYNTAXES; "
        "print(*TRANSFER_SYNTAXES)"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert tuple(run.stdout.split()) == sop_classes.TRANSFER_SYNTAXES
    assert "1.2.840.10008.1.2.4.110" in sop_classes.TRANSFER_SYNTAXES
