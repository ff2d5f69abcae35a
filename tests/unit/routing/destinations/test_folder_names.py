"""Names of files below a folder: whatever a header says, they stay there and say nothing about a patient."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iap_node.config.destinations import checked_template
from iap_node.records import InstanceHeader
from iap_node.routing.destinations.names import file_name

TEMPLATE = "{Modality}/{BodyPartExamined}{Manufacturer}/{SeriesNumber}-{SOPInstanceUID}.dcm"


def header(**changes: object) -> InstanceHeader:
    uids = {
        "sop_class_uid": "1.2", "sop_instance_uid": "1.2.3.4.5", "study_instance_uid": "1.2.3",
        "series_instance_uid": "1.2.3.4", "transfer_syntax_uid": "1.2.840.10008.1.2.1",
    }  # fmt: skip
    return InstanceHeader(**uids | changes)  # type: ignore[arg-type]


def test_a_template_is_filled_in() -> None:
    name = file_name(TEMPLATE, header(modality="MR", series_number=7, body_part_examined="BREAST", manufacturer="GE M"))
    assert name == "MR/BREASTGE_M/7-1.2.3.4.5.dcm"


def test_what_is_absent_has_a_name_too() -> None:
    assert file_name(TEMPLATE, header()) == "none/nonenone/none-1.2.3.4.5.dcm"


@given(st.text(), st.text(), st.text())
def test_no_header_leads_out_of_the_folder(modality: str, body_part: str, manufacturer: str) -> None:
    name = file_name(TEMPLATE, header(modality=modality, body_part_examined=body_part, manufacturer=manufacturer))
    parts = PurePosixPath(name).parts
    assert len(parts) == 3
    assert all(re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}", part, re.ASCII) for part in parts)


@pytest.mark.parametrize(
    "template",
    [
        "/{SOPInstanceUID}", "../{SOPInstanceUID}", "a//{SOPInstanceUID}", "a/../{SOPInstanceUID}", ".{SOPInstanceUID}",
        "{SOPInstanceUID}/", "{PatientName}/{SOPInstanceUID}", "{SeriesInstanceUID}.dcm", "{SOPInstanceUID}/{Modality}",
        "a\0{SOPInstanceUID}", "a\\{SOPInstanceUID}", "{SOPInstanceUID", "{SOPInstanceUID!r}",
    ],
)  # fmt: skip
def test_templates_that_lead_elsewhere_or_name_two_files_alike_are_refused(template: str) -> None:
    with pytest.raises(ValueError):
        checked_template(template)
