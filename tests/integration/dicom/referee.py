"""What pydicom reads where the store path scans: the header of an instance, by the book and without bounds."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from iap_node.records import InstanceHeader

_NATIVE = {  # implicit, little endian
    (True, True): ImplicitVRLittleEndian,
    (False, True): ExplicitVRLittleEndian,
    (False, False): ExplicitVRBigEndian,
}


def read_by_pydicom(path: Path) -> InstanceHeader:
    """The header as pydicom reads it; empty texts where an element is absent or empty, whatever it is.

    Raises
    ------
    Exception
        pydicom cannot read the file, or an element.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds = dcmread(path, force=True, stop_before_pixels=True)
        return InstanceHeader(
            sop_class_uid=_text(ds, "SOPClassUID"),
            sop_instance_uid=_text(ds, "SOPInstanceUID"),
            study_instance_uid=_text(ds, "StudyInstanceUID"),
            series_instance_uid=_text(ds, "SeriesInstanceUID"),
            transfer_syntax_uid=str(ds.file_meta.get("TransferSyntaxUID") or _NATIVE[ds.original_encoding]),
            patient_id=_text(ds, "PatientID"),
            issuer_of_patient_id=_text(ds, "IssuerOfPatientID"),
            study_date=_date(_text(ds, "StudyDate")),
            modality=_text(ds, "Modality"),
            series_number=_number(ds, "SeriesNumber"),
            series_description=_text(ds, "SeriesDescription"),
            protocol_name=_text(ds, "ProtocolName"),
            body_part_examined=_text(ds, "BodyPartExamined"),
            manufacturer=_text(ds, "Manufacturer"),
            manufacturer_model_name=_text(ds, "ManufacturerModelName"),
            device_serial_number=_text(ds, "DeviceSerialNumber"),
            software_versions=_text(ds, "SoftwareVersions"),
            image_type=_text(ds, "ImageType"),
            instance_number=_number(ds, "InstanceNumber"),
            rows=_number(ds, "Rows"),
            columns=_number(ds, "Columns"),
            number_of_frames=_number(ds, "NumberOfFrames"),
        )


def _value(ds: Dataset, keyword: str) -> Any:
    return ds[keyword].value if keyword in ds else None


def _text(ds: Dataset, keyword: str) -> str:
    """Values joined as in the file; the standard's padding off both ends (PS3.5 6.2)."""
    value = _value(ds, keyword)
    texts = value if isinstance(value, MultiValue) else [] if value is None else [value]
    return "\\".join(map(str, texts)).strip(" \0")


def _number(ds: Dataset, keyword: str) -> int | None:
    value = _value(ds, keyword)
    return None if value in (None, "") else int(value)


def _date(text: str) -> str:
    """A date of PS3.5 6.2, or of ACR-NEMA 300, which has dots."""
    return text.replace(".", "") if re.fullmatch(r"\d{8}|\d{4}\.\d\d\.\d\d", text) else ""
