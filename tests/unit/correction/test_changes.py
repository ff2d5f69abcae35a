"""What becomes of accepted values and of what a person sets, before any file is opened."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from iap_node.correction.changes import gather
from iap_node.database.corrections import AcceptedValue
from iap_node.errors import PermanentError
from iap_node.records import FindingKind

AT = datetime(2026, 3, 1, tzinfo=UTC)


def accepted(keyword: str, value: str, number: int = 1, found: str = "") -> AcceptedValue:
    return AcceptedValue(number, keyword, "a-check", FindingKind.UNIT, found, value, "Ada", AT)


def test_accepted_values_become_changes_with_their_finding_and_person() -> None:
    changes = gather([accepted("RepetitionTime", "2500", found="2.5")])
    (change,) = changes.changes
    assert (change.keyword, change.value, change.found) == ("RepetitionTime", "2500", "2.5")
    assert (change.reason, change.who) == ("finding 1 (a-check)", "Ada")
    assert changes.elements == {"RepetitionTime": "2500"}
    assert [value.finding_id for value in changes.accepted] == [1]


def test_what_is_set_goes_before_what_was_accepted() -> None:
    changes = gather([accepted("EchoTime", "2")], ["EchoTime=3"])
    assert changes.elements == {"EchoTime": "3"}
    assert changes.accepted == ()


def test_two_findings_that_want_the_same_are_one_change_and_others_are_an_error() -> None:
    both = gather([accepted("EchoTime", "2"), accepted("EchoTime", "2.0", number=2)])
    assert both.elements == {"EchoTime": "2"}
    assert [value.finding_id for value in both.accepted] == [1, 2]
    with pytest.raises(PermanentError, match="finding 1 wants '2' for EchoTime, finding 2 wants '3'"):
        gather([accepted("EchoTime", "2"), accepted("EchoTime", "3", number=2)])


@pytest.mark.parametrize("keyword", ["FieldOfView", "SeriesInstanceUID", "PatientName", "BitsStored", "00291010"])
def test_what_no_element_can_be_given_is_left_out_with_its_reason(keyword: str) -> None:
    changes = gather([accepted(keyword, "350"), accepted("EchoTime", "2", number=2)])
    assert [(left.keyword, left.reason) for left in changes.left_out] == [(keyword, "finding 1 (a-check)")]
    assert changes.left_out[0].why
    assert changes.elements == {"EchoTime": "2"}
    assert [value.finding_id for value in changes.accepted] == [2]


def test_an_accepted_value_against_the_standard_is_an_error_that_names_its_finding() -> None:
    with pytest.raises(PermanentError, match=r"finding 7 .* '2,5' .* Echo Time \(0018,0081\)"):
        gather([accepted("EchoTime", "2,5", number=7)])


def test_a_contrast_agent_that_was_absent_goes_and_one_without_a_name_is_empty() -> None:
    assert gather([accepted("ContrastBolusAgent", "absent")]).elements == {"ContrastBolusAgent": None}
    assert gather([accepted("ContrastBolusAgent", "present but not named")]).elements == {"ContrastBolusAgent": ""}
    assert gather([accepted("ContrastBolusAgent", "GADAVIST")]).elements == {"ContrastBolusAgent": "GADAVIST"}


@pytest.mark.parametrize("text", ["EchoTime", "=2", "Echo Time=2", "EchoTime[=2", ""])
def test_a_setting_without_keyword_or_value_is_an_error(text: str) -> None:
    with pytest.raises(PermanentError, match="sets nothing"):
        gather([], [text])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("EchoTimes=2", "not a keyword"),
        ("EchoTime=two", "not a decimal number"),
        ("PatientName=A", "cannot be set: it says who somebody is"),
        ("Rows=2", "cannot be set: it describes the pixel data"),
        ("FieldOfView=350", "computed from Rows"),
        ("AcquisitionMatrix=70000x2", "cannot be written"),
    ],
)
def test_a_setting_that_cannot_be_written_is_an_error(text: str, why: str) -> None:
    with pytest.raises(PermanentError, match=why):
        gather([], [text])


def test_settings_may_name_the_old_value_and_values_may_hold_any_character() -> None:
    changes = gather([], ["EchoTime[20]=0.02", "EchoTime[80]=0.08", "SeriesDescription=a=b[c]", "ScanOptions=FS\\PFP"])
    assert changes.elements == {
        "EchoTime[20]": "0.02", "EchoTime[80]": "0.08", "SeriesDescription": "a=b[c]", "ScanOptions": "FS\\PFP",
    }  # fmt: skip
    assert gather([], ["EchoTime[*]=2"]).changes[0].everywhere
    with pytest.raises(PermanentError, match="set twice"):
        gather([], ["EchoTime=2", "EchoTime=3"])


def test_the_fingerprint_is_of_values_and_not_of_who_accepted_them_or_in_which_order() -> None:
    one = gather([accepted("EchoTime", "2"), accepted("FlipAngle", "9", number=2)])
    other = gather([accepted("FlipAngle", "9", number=5), accepted("EchoTime", "2", number=9)])
    assert one.fingerprint == other.fingerprint == gather([], ["FlipAngle=9", "EchoTime=2"]).fingerprint
    assert one.fingerprint != gather([accepted("EchoTime", "3"), accepted("FlipAngle", "9")]).fingerprint
    assert one.fingerprint != gather([accepted("EchoTime", "2")]).fingerprint
