"""What a PACS has: C-FIND at STUDY, SERIES and IMAGE level of the Study Root (PS3.4 C.4.1, C.6.2).

Filters go into the identifiers where every PACS heeds them, and are applied again to what comes back, since not every
PACS heeds optional keys. Patient IDs go into the identifier and nowhere else.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta

from pydicom.dataset import Dataset
from pynetdicom.association import Association

from iap_node.dicom.query import STUDY_ROOT_FIND
from iap_node.errors import DeliveryError, PermanentError

MAX_LO = 64  # characters of the VR of Patient ID (0010,0020)
PENDING = (0xFF00, 0xFF01)
_DATES = re.compile(r"(\d{8})?(-(\d{8})?)?", re.ASCII)
_UID = re.compile(r"[0-9.]{1,64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which series are to be pulled; an empty filter admits everything."""

    modalities: tuple[str, ...] = ()
    study_date: str = ""  # DA or a range of them: 20260101-20260131
    description: str = ""  # of the series, with * and ?, upper case as lower
    patient_id: str = field(default="", repr=False)  # never logged
    study_instance_uid: str = ""

    def __post_init__(self) -> None:
        if self.study_date and (self.study_date == "-" or not _DATES.fullmatch(self.study_date)):
            raise PermanentError("the study date is YYYYMMDD, or a range: 20260101-20260131, 20260101- or -20260131")

        if len(self.patient_id) > MAX_LO or not self.patient_id.isprintable() or "\\" in self.patient_id:
            raise PermanentError(f"the patient ID has 1 to {MAX_LO} characters, none of them a backslash or a control")

    def admits(self, series: FoundSeries) -> bool:
        """Whether a series is wanted."""
        if self.modalities and series.modality not in self.modalities:
            return False
        return not self.description or fnmatch.fnmatchcase(series.description.lower(), _pattern(self.description))


@dataclass(frozen=True, slots=True)
class FoundSeries:
    """A series that a PACS has."""

    study_instance_uid: str
    series_instance_uid: str
    modality: str
    description: str
    n_instances: int | None  # None: the PACS does not say


def days_back(days: int, today: date) -> str:
    """The range of study dates from so many days back to today."""
    return f"{today - timedelta(days=days):%Y%m%d}-{today:%Y%m%d}"


def find_studies(assoc: Association, wanted: Wanted) -> list[str]:
    """Study Instance UIDs, the newest study dates first.

    Raises
    ------
    DeliveryError
        The PACS does not answer, or refuses.
    """
    found: dict[str, str] = {}
    # One query for each modality: not every PACS takes lists, and ModalitiesInStudy is optional (PS3.4 C.3.4)
    for modality in wanted.modalities or ("",):
        ds = Dataset()
        ds.QueryRetrieveLevel = "STUDY"
        ds.StudyInstanceUID = wanted.study_instance_uid
        ds.StudyDate = wanted.study_date
        if wanted.patient_id:  # otherwise the PACS need not tell us
            ds.PatientID = wanted.patient_id
        ds.ModalitiesInStudy = modality
        for match in _matches(assoc, ds):
            uid = _text(match, "StudyInstanceUID")
            if _UID.fullmatch(uid):
                found[uid] = _text(match, "StudyDate")
    return sorted(found, key=lambda uid: found[uid], reverse=True)


def find_series(assoc: Association, study_instance_uid: str, wanted: Wanted) -> list[FoundSeries]:
    """The wanted series of a study. Raises as `find_studies`."""
    ds = Dataset()
    ds.QueryRetrieveLevel = "SERIES"
    ds.StudyInstanceUID = study_instance_uid
    ds.SeriesInstanceUID = ""
    ds.Modality = wanted.modalities[0] if len(wanted.modalities) == 1 else ""
    ds.SeriesDescription = ""
    ds.NumberOfSeriesRelatedInstances = ""
    found = []
    for match in _matches(assoc, ds):
        number = _text(match, "NumberOfSeriesRelatedInstances")
        series = FoundSeries(
            study_instance_uid,
            _text(match, "SeriesInstanceUID"),
            _text(match, "Modality"),
            _text(match, "SeriesDescription"),
            int(number) if number.isdecimal() else None,
        )
        if _UID.fullmatch(series.series_instance_uid) and wanted.admits(series):
            found.append(series)
    return found


def find_instances(assoc: Association, series: FoundSeries) -> list[str]:
    """SOP Instance UIDs of a series. Raises as `find_studies`."""
    ds = Dataset()
    ds.QueryRetrieveLevel = "IMAGE"
    ds.StudyInstanceUID = series.study_instance_uid
    ds.SeriesInstanceUID = series.series_instance_uid
    ds.SOPInstanceUID = ""
    found = (_text(match, "SOPInstanceUID") for match in _matches(assoc, ds))
    return list(dict.fromkeys(uid for uid in found if _UID.fullmatch(uid)))


def _matches(assoc: Association, ds: Dataset) -> Iterator[Dataset]:
    level = ds.QueryRetrieveLevel
    if not assoc.is_established:
        raise DeliveryError("the PACS ended the association")
    for status, match in assoc.send_c_find(ds, STUDY_ROOT_FIND):
        if "Status" not in status:
            raise DeliveryError(f"the PACS did not answer a C-FIND at {level} level; see whether it lets us ask")
        if status.Status in PENDING:
            if match is not None:
                yield match
        elif status.Status != 0x0000:
            told = f"{status.Status:04X}H {status.get('ErrorComment', '') or ''}".rstrip()
            raise DeliveryError(f"the PACS answered a C-FIND at {level} level with {told}")


def _text(ds: Dataset, keyword: str) -> str:
    """A value as text; of an odd one the empty text: a PACS is no more to be believed than any sender."""
    try:
        value = ds.get(keyword, "")
    except (ValueError, TypeError, NotImplementedError):
        return ""
    return "" if value is None else str(value).strip(" \0")


def _pattern(text: str) -> str:
    """A wild card of DICOM as one of fnmatch: brackets mean themselves."""
    return text.lower().replace("[", "[[]")
