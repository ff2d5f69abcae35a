"""The audit of the files that pydicom brings to test itself with: other modalities, damaged files, MR made thumbnails.

What is wrong with them is known: images cut to 16 x 16 under a header of 256, a field strength left out, an image cut
off, one padded. Nothing else may be said, and no file may end the audit.
"""

from __future__ import annotations

from pathlib import Path

import pydicom
import pytest

from iap_node.audit.folder import audit_files
from iap_node.dicom.folder import list_files

FILES = Path(pydicom.__file__).parent / "data" / "test_files"
TOSHIBA = {
    ("ImagedNucleus", "nucleus-without-mass-number"),
    ("MagneticFieldStrength", "field-strength-missing"),
    ("PixelData", "pixel-data-size"),  # MR_small_padded.dcm
    ("PixelData", "pixel-data-there"),  # MR_truncated.dcm
}
THUMBNAIL = {("AcquisitionMatrix", "matrix-and-image-size")}


@pytest.mark.skipif(not FILES.is_dir(), reason="pydicom is installed without its test files")
def test_nothing_is_said_but_what_is_wrong_with_them() -> None:
    audit = audit_files(FILES, list_files(FILES), processes=1)
    named = {}
    for series in audit.series:
        found = {(one.element, one.check) for one in series.findings}
        if found:
            named.setdefault(series.manufacturer_model_name, []).append(found)
        assert series.modality == "MR" or not found, series
    assert named == {"MRT50H1": [TOSHIBA], "Eclipse 1.5T": [THUMBNAIL] * 6}
    assert all(one.reason for one in audit.unread)
