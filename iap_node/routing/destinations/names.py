"""Names of files and objects by a template: safe anywhere, and silent about patients. Called by `folder`, `objects`."""

from __future__ import annotations

import re

from iap_node.records import InstanceHeader

LONGEST_TEXT = 32  # characters of a value that is no UID
_FIELD = re.compile(r"\{([^{}]*)\}")
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+", re.ASCII)


def file_name(template: str, header: InstanceHeader) -> str:
    """The path of an instance below the folder, by a template that `checked_template` admits.

    An absent value is ``none``; what is no letter, digit, dot, hyphen or underscore becomes an underscore.
    """
    values = {
        "StudyInstanceUID": header.study_instance_uid,
        "SeriesInstanceUID": header.series_instance_uid,
        "SOPInstanceUID": header.sop_instance_uid,
        "SOPClassUID": header.sop_class_uid,
        "Modality": header.modality,
        "SeriesNumber": header.series_number,
        "InstanceNumber": header.instance_number,
        "BodyPartExamined": header.body_part_examined,
        "Manufacturer": header.manufacturer,
    }
    return _FIELD.sub(lambda field: _safe(field[1], values[field[1]]), template)


def _safe(keyword: str, value: str | int | None) -> str:
    text = "" if value is None else str(value).strip()
    if not keyword.endswith("UID"):  # which the reader has checked
        text = _UNSAFE.sub("_", text)[:LONGEST_TEXT].strip(".")
    return text or "none"
