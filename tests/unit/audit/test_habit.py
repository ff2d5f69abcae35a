"""The scanner's habit against one series: when it speaks, what it says, and when it holds its tongue."""

from __future__ import annotations

from dataclasses import replace

import pytest

from iap_node.audit.habit import DEVIATES, SOFTWARE_CHANGED, STUDY, habit_findings, habit_testimony, learn_habit
from iap_node.audit.vocabulary import Vocabulary, learn_vocabulary
from iap_node.config import HabitConfig
from iap_node.records import Finding, FindingKind, PastSeries, Severity, StatedProtocol, Witness
from iap_node.records import Testimony as Said
from tests.unit.audit.past_series import archive, past, stated

CONFIG = HabitConfig()


def findings(
    own: StatedProtocol,
    history: list[PastSeries],
    config: HabitConfig = CONFIG,
    study: list[PastSeries] | None = None,
    vocabulary: Vocabulary | None = None,
) -> tuple[Finding, ...]:
    words = vocabulary or Vocabulary()
    return habit_findings(own, learn_habit(own, history, config, words), study or ())


def what_habit_says(element: str, own: StatedProtocol, history: list[PastSeries]) -> Said | None:
    return habit_testimony(element, own, learn_habit(own, history, CONFIG, Vocabulary()))


def elements(found: tuple[Finding, ...]) -> list[tuple[str, str]]:
    return [(one.check, one.element) for one in found]


# ---------------------------------------------------------------- deviations


def test_a_value_that_the_scanner_never_wrote_is_told_with_its_numbers_and_the_usual_one() -> None:
    history = [past(n, EchoTime="2.46" if n not in (5, 9) else f"2.{n}") for n in reversed(range(43))]
    (found,) = findings(stated(EchoTime="4.92"), history)
    assert (found.check, found.element, found.kind) == (DEVIATES, "EchoTime", FindingKind.DEVIATION)
    assert (found.raised_by, found.severity, found.suggested_value) == (Witness.HABIT, Severity.WARNING, "2.46")
    assert found.raw == "4.92"
    assert found.evidence == (
        "Echo Time (0018,0081) is 4.92 ms; 41 of 43 series of this protocol on this scanner since 2026-03 have 2.46 ms"
    )
    (said,) = found.testimonies
    assert (said.witness, said.against, said.value) == (Witness.HABIT, True, "2.46")
    assert said.probability == pytest.approx(1 / 45)


def test_the_habit_is_silent_when_the_series_is_as_usual() -> None:
    assert findings(stated(), archive(43)) == ()


@pytest.mark.parametrize("element", ["EchoTime", "RepetitionTime", "FlipAngle", "SliceThickness", "PixelBandwidth"])
def test_within_its_tolerance_a_number_is_the_same(element: str) -> None:
    close = {"EchoTime": "2.47", "RepetitionTime": "5.43", "FlipAngle": "10.4", "SliceThickness": "1.204",
             "PixelBandwidth": "322"}  # fmt: skip
    assert findings(stated(**{element: close[element]}), archive(20)) == ()


def test_tolerances_can_be_set() -> None:
    own = stated(EchoTime="2.6")
    assert elements(findings(own, archive(20))) == [(DEVIATES, "EchoTime")]
    assert findings(own, archive(20), HabitConfig(tolerances={"EchoTime": 0.2})) == ()


def test_fewer_series_than_asked_for_make_no_habit() -> None:
    own = stated(EchoTime="4.92")
    assert findings(own, archive(9)) == ()
    assert elements(findings(own, archive(10))) == [(DEVIATES, "EchoTime")]
    assert elements(findings(own, archive(4), HabitConfig(min_series=4))) == [(DEVIATES, "EchoTime")]


def test_series_of_another_software_do_not_count() -> None:
    history = archive(9) + archive(30, SoftwareVersions="syngo MR D13", EchoTime="3")
    assert findings(stated(EchoTime="4.92"), history) == ()


def test_repetitions_within_two_examinations_make_no_habit() -> None:
    history = [past(n, study=f"study {n % 2}") for n in range(40)]
    assert findings(stated(EchoTime="4.92"), history) == ()
    assert elements(findings(stated(EchoTime="4.92"), [past(n, study=f"study {n % 3}") for n in range(40)]))


def test_the_series_of_one_examination_do_not_speak_for_each_other() -> None:
    wrong = [past(100 + n, study="own", EchoTime="4.92") for n in range(5)]
    habit = learn_habit(stated(EchoTime="4.92"), wrong + archive(40), CONFIG, Vocabulary(), study="own")
    (found,) = habit_findings(stated(EchoTime="4.92"), habit)
    assert found.severity is Severity.WARNING
    assert found.evidence.endswith("40 of 40 series of this protocol on this scanner since 2026-03 have 2.46 ms")


def test_an_element_that_too_few_agree_on_has_no_usual_value() -> None:
    mixed = [past(n, EchoTime="2.46" if n % 4 else "2.8") for n in range(40)]  # 75 %
    assert findings(stated(EchoTime="4.92"), mixed) == ()
    assert elements(findings(stated(EchoTime="4.92"), mixed, HabitConfig(share=0.7))) == [(DEVIATES, "EchoTime")]


def test_an_element_that_varies_from_patient_to_patient_has_no_usual_value() -> None:
    shortest = [past(n, EchoTime="2.46" if n % 8 else str(2.5 + n / 100)) for n in range(40)]
    assert findings(stated(EchoTime="2.81"), shortest) == ()


def test_a_majority_that_leaves_an_element_out_says_nothing_about_it() -> None:
    history = [past(n, PixelBandwidth="320" if n < 15 else None) for n in range(40)]
    assert findings(stated(PixelBandwidth="100"), history) == ()
    assert what_habit_says("PixelBandwidth", stated(PixelBandwidth="100"), history) is None
    assert findings(stated(PixelBandwidth=None), history) == ()
    assert findings(stated(PixelBandwidth="320"), archive(40, PixelBandwidth=None)) == ()


def test_the_reference_is_a_combination_that_was_used_not_a_medley() -> None:
    """20 + 9 + 9 series: the flip angle 15 is commoner than 10 in none of the groups that are used with TE 2.46."""
    history = (
        [past(n) for n in range(20)]
        + [past(20 + n, EchoTime="3.69", FlipAngle="15") for n in range(9)]
        + [past(29 + n, RepetitionTime="8", FlipAngle="15") for n in range(9)]
        + [past(38 + n, SliceThickness="2", FlipAngle="15") for n in range(9)]
    )
    habit = learn_habit(stated(), history, HabitConfig(share=0.51), Vocabulary())
    assert habit.population is not None
    key, places = habit.population.groups[0]
    reference = {
        keyword: habit.population.classes[keyword].texts[index]
        for keyword, index in zip(habit.population.dividing, key, strict=True)
        if index is not None
    }
    assert len(places) == 20
    assert (reference["FlipAngle"], reference["EchoTime"]) == ("10", "2.46")
    # 27 of 47 have 15 degrees: nothing is said of the flip angle, for the reference's is not the usual one
    assert habit_findings(stated(FlipAngle="70"), habit) == ()


def test_words_are_the_same_whatever_their_order_and_case() -> None:
    assert findings(stated(ScanOptions="fs\\PFP", SequenceVariant="OSP\\SP"), archive(20)) == ()
    (found,) = findings(stated(ScanOptions="PFP"), archive(20))
    assert (found.element, found.suggested_value) == ("ScanOptions", "PFP\\FS")


def test_several_echo_times_are_compared_as_a_whole() -> None:
    history = archive(20, EchoTime="4.92\\7.38")
    assert findings(stated(EchoTime="4.92\\7.38"), history) == ()
    (found,) = findings(stated(EchoTime="4.92"), history)
    assert found.suggested_value is None  # of which image?
    assert "4.92, 7.38 ms" in found.evidence


def test_only_what_would_be_written_is_suggested() -> None:
    history = [past(n, ImagingFrequency=f"{123.2 + n / 1000:g}", AcquisitionMatrix=f"448x{300 + n}") for n in range(40)]
    measured, doubled = stated(ImagingFrequency="63.6"), stated(AcquisitionMatrix="896x331")
    assert [one.suggested_value for one in findings(measured, history)] == [None]
    assert [one.suggested_value for one in findings(doubled, history)] == ["448x331"]  # the patient's own phase
    assert [one.suggested_value for one in findings(stated(AcquisitionMatrix=None), history)] == [None]


def test_another_model_under_one_serial_number_is_told_unless_it_is_a_spelling() -> None:
    assert findings(stated(ManufacturerModelName="MAGNETOM Skyra"), archive(20)) == ()
    (found,) = findings(stated(ManufacturerModelName="Aera"), archive(20))
    assert (found.element, found.suggested_value) == ("ManufacturerModelName", "Skyra")
    words = learn_vocabulary(Vocabulary(), [("SIEMENS", "TrioTim", "1", 20), ("SIEMENS", "Trio", "1", 4)])
    own = stated(ManufacturerModelName="Trio")
    assert findings(own, archive(20, ManufacturerModelName="TrioTim"), vocabulary=words) == ()


# ---------------------------------------------------------------- what people adapt


def test_what_people_fit_to_the_patient_is_no_deviation() -> None:
    own = stated(FieldOfView="280", AcquisitionMatrix="448x300", NumberOfSlices="144")
    assert findings(own, archive(40)) == ()


def test_a_field_of_view_that_fits_no_patient_is_told() -> None:
    history = [past(n, FieldOfView=str(300 + n)) for n in range(40)]
    (found,) = findings(stated(FieldOfView="34"), history)
    assert (found.element, found.suggested_value, found.severity) == ("PixelSpacing", None, Severity.NOTE)
    assert "300 to 339 mm" in found.evidence


def test_the_steps_in_frequency_are_the_protocols() -> None:
    assert elements(findings(stated(AcquisitionMatrix="512x358"), archive(40))) == [(DEVIATES, "AcquisitionMatrix")]


def test_the_repetition_time_of_slices_in_turn_follows_their_number() -> None:
    slices = {"MRAcquisitionType": "2D", "RepetitionTime": "4000", "NumberOfSlices": "30"}
    history = archive(40, **slices)
    assert findings(stated(**{**slices, "RepetitionTime": "4600", "NumberOfSlices": "35"}), history) == ()
    same_number = stated(**{**slices, "RepetitionTime": "4600"})
    assert elements(findings(same_number, history)) == [(DEVIATES, "RepetitionTime")]
    in_seconds = stated(**{**slices, "RepetitionTime": "4.6", "NumberOfSlices": "35"})
    assert elements(findings(in_seconds, history)) == [(DEVIATES, "RepetitionTime")]


# ---------------------------------------------------------------- variants and other protocols


def test_a_known_variant_is_one_finding() -> None:
    variant = {"EchoTime": "3.69", "RepetitionTime": "8", "FlipAngle": "15"}
    history = archive(43) + [past(6 * n, **variant) for n in range(7)]
    (found,) = findings(stated(**variant), history)
    assert (found.element, found.check, found.severity) == ("SeriesInstanceUID", DEVIATES, Severity.NOTE)
    assert found.suggested_value is None
    assert "variant 2 of this protocol (7 other series)" in found.evidence
    assert "Echo Time 3.69 ms (usually 2.46 ms)" in found.evidence


def test_one_element_that_a_variant_has_too_is_a_note_that_names_it() -> None:
    history = archive(43) + [past(100 + n, EchoTime="3.69") for n in range(2)]
    (found,) = findings(stated(EchoTime="3.69"), history)
    assert (found.element, found.severity) == ("EchoTime", Severity.NOTE)
    assert "variant 2 of this protocol (2 other series)" in found.evidence


def test_one_element_that_is_often_set_so_is_no_finding() -> None:
    history = archive(43) + [past(10 * n, FlipAngle="15") for n in range(3)]
    assert findings(stated(FlipAngle="15"), history) == ()
    assert elements(findings(stated(FlipAngle="15"), history[:-1])) == [(DEVIATES, "FlipAngle")]


def test_an_element_with_many_values_beside_the_usual_one_has_no_habit() -> None:
    lowered = [past(n, FlipAngle="10" if n % 7 else str(7.1 - (n // 14) * 0.9)) for n in range(84)]  # two of each value
    assert findings(stated(FlipAngle="6.7"), lowered) == ()
    assert what_habit_says("FlipAngle", stated(FlipAngle="6.7"), lowered) is None


def test_what_differs_within_the_study_is_told_once() -> None:
    own = stated(FrameOfReferenceUID="1.2.3", MagneticFieldStrength="1.5")
    assert elements(findings(own, archive(40), study=in_study(4))) == [(STUDY, "MagneticFieldStrength")]


def test_a_few_deviations_are_told_one_by_one_and_many_as_one() -> None:
    few = stated(EchoTime="3.69", FlipAngle="15")
    assert elements(findings(few, archive(40))) == [(DEVIATES, "EchoTime"), (DEVIATES, "FlipAngle")]
    many = stated(EchoTime="100", RepetitionTime="4000", FlipAngle="90", SliceThickness="4", PixelBandwidth="150")
    (found,) = findings(many, archive(40))
    assert (found.element, found.severity) == ("SeriesInstanceUID", Severity.WARNING)
    assert "differs in 5 elements" in found.evidence


def test_missing_elements_are_told_with_what_is_usual_but_not_dozens_of_them() -> None:
    (found,) = findings(stated(EchoTime=None), archive(40))
    assert (found.element, found.suggested_value, found.raw) == ("EchoTime", "2.46", "")
    stripped = stated(EchoTime=None, RepetitionTime=None, FlipAngle=None, PixelBandwidth=None)
    (found,) = findings(stripped, archive(40))
    assert found.element == "SeriesInstanceUID"
    assert "no single value of" in found.evidence


def test_the_patients_position_is_told_beside_a_variant() -> None:
    variant = {"EchoTime": "3.69", "FlipAngle": "15"}
    history = archive(43) + [past(100 + n, **variant) for n in range(4)]
    own = stated(**variant, PatientPosition="HFS")
    assert [one.element for one in findings(own, history)] == ["PatientPosition", "SeriesInstanceUID"]
    seen = history + [past(10 * n, PatientPosition="HFS") for n in range(3)]
    assert findings(stated(PatientPosition="HFS"), seen) == ()  # some patients cannot lie prone


def test_a_protocol_that_was_changed_is_not_held_against_every_later_series() -> None:
    new = {"EchoTime": "3.69", "FlipAngle": "15"}
    history = archive(100)
    assert len(findings(stated(**new), history)) == 2
    for n in range(100, 106):
        history = [past(n, **new), *history]
    assert findings(stated(**new), history) == ()
    assert findings(stated(EchoTime="4.92"), history) == ()  # which of both is right nobody can tell yet
    timeless = [replace(one, at=None) for one in history]
    assert len(findings(stated(**new), timeless)) == 1


# ---------------------------------------------------------------- software


def test_a_change_of_software_is_told_once_and_not_as_deviations() -> None:
    new = {"SoftwareVersions": "syngo MR XA30", "EchoTime": "2.6", "PixelBandwidth": "340", "FlipAngle": "12"}
    history = archive(40)
    (found,) = findings(stated(**new), history)
    assert (found.check, found.element, found.severity) == (SOFTWARE_CHANGED, "SoftwareVersions", Severity.NOTE)
    assert "'syngo MR XA30'; none of 40 earlier series" in found.evidence
    assert "40 have 'syngo MR E11'" in found.evidence
    second = learn_habit(stated(**new), [past(50, study="own", **new), *history], CONFIG, Vocabulary(), study="own")
    assert habit_findings(stated(**new), second) == ()
    later = [past(100 + n, **new) for n in range(9)] + history
    assert findings(stated(**{**new, "EchoTime": "4.92"}), later[8:]) == ()  # the second: told already
    assert findings(stated(**{**new, "EchoTime": "4.92"}), later) == ()  # nine: no habit yet
    settled = [past(109, **new), *later]
    assert elements(findings(stated(**{**new, "EchoTime": "4.92"}), settled)) == [(DEVIATES, "EchoTime")]


def test_a_first_software_and_a_missing_one_are_no_change() -> None:
    assert findings(stated(), []) == ()
    assert findings(stated(SoftwareVersions="syngo MR XA30"), archive(9)) == ()
    assert findings(stated(SoftwareVersions=None), archive(40)) == ()


def test_series_of_no_protocol_have_no_habit() -> None:
    assert findings(stated(protocol="", EchoTime="4.92"), archive(40)) == ()


# ---------------------------------------------------------------- the study


def in_study(n: int, **changes: str | None) -> list[PastSeries]:
    return [
        past(number, study="one", protocol=f"protocol {number}", **{"FrameOfReferenceUID": "1.2.3", **changes})
        for number in range(n)
    ]


def test_a_series_that_names_another_software_than_its_study_is_told() -> None:
    own = stated(FrameOfReferenceUID="1.2.3", SoftwareVersions="syngo MR D13")
    (found,) = findings(own, [], study=in_study(5))
    assert (found.check, found.element, found.kind) == (STUDY, "SoftwareVersions", FindingKind.INCONSTANT)
    assert (found.severity, found.suggested_value) == (Severity.WARNING, "syngo MR E11")
    assert "5 of 5 other series of this study in the same frame of reference have 'syngo MR E11'" in found.evidence


@pytest.mark.parametrize(
    ("element", "text"),
    [("MagneticFieldStrength", "1.5"), ("ImagingFrequency", "63.6"), ("PatientPosition", "HFS"),
     ("ManufacturerModelName", "Aera"), ("DeviceSerialNumber", "45002")],
)  # fmt: skip
def test_what_cannot_differ_within_a_study_is_compared(element: str, text: str) -> None:
    own = stated(**{"FrameOfReferenceUID": "1.2.3", element: text})
    assert elements(findings(own, [], study=in_study(4))) == [(STUDY, element)]


def test_what_may_differ_within_a_study_is_no_finding() -> None:
    study = in_study(4)
    assert findings(stated(FrameOfReferenceUID="1.2.9", PatientPosition="HFS"), [], study=study) == ()
    assert findings(stated(FrameOfReferenceUID="1.2.9", DeviceSerialNumber="7"), [], study=study) == ()
    phosphorus = stated(FrameOfReferenceUID="1.2.3", ImagedNucleus="31P", ImagingFrequency="49.9")
    assert findings(phosphorus, [], study=study) == ()
    derived = stated(
        FrameOfReferenceUID="1.2.3", ImageType="DERIVED\\SECONDARY", Manufacturer="MPTronic software",
        SoftwareVersions="1.0", MagneticFieldStrength=None,
    )  # fmt: skip
    assert findings(derived, [], study=study) == ()
    assert findings(stated(FrameOfReferenceUID="1.2.3", MagneticFieldStrength="2.89"), [], study=study) == ()


def test_of_two_series_nobody_can_tell_which_is_wrong() -> None:
    (found,) = findings(stated(FrameOfReferenceUID="1.2.3", PatientPosition="HFS"), [], study=in_study(1))
    assert (found.severity, found.suggested_value) == (Severity.NOTE, None)
    own = stated(FrameOfReferenceUID="1.2.3")
    assert findings(own, [], study=[*in_study(2), *in_study(1, PatientPosition="HFS")]) == ()  # the majority


# ---------------------------------------------------------------- testimonies


def test_the_habit_speaks_for_a_value_that_another_witness_doubts() -> None:
    said = what_habit_says("EchoTime", stated(), archive(43))
    assert said is not None
    assert (said.against, said.value) == (False, "2.46")
    assert said.probability == pytest.approx(44 / 45)
    assert said.statement.startswith("43 of 43 series")


def test_the_habit_gives_the_value_that_a_header_leaves_out() -> None:
    said = what_habit_says("EchoTime", stated(EchoTime=None), archive(43))
    assert said is not None
    assert (said.against, said.value, said.probability) == (True, "2.46", None)


def test_the_habit_gives_the_range_of_what_people_adapt() -> None:
    history = [past(n, FieldOfView=str(300 + n)) for n in range(40)]
    within, beyond = (what_habit_says("PixelSpacing", stated(FieldOfView=text), history) for text in ("320", "3200"))
    assert within is not None and beyond is not None
    assert (within.against, beyond.against) == (False, True)
    assert within.probability is None


def test_the_habit_gives_no_testimony_where_it_has_no_habit() -> None:
    assert what_habit_says("EchoTime", stated(), archive(9)) is None
    assert what_habit_says("StudyDate", stated(), archive(40)) is None
    assert what_habit_says("ContrastBolusAgent", stated(ContrastBolusAgent="GADAVIST"), archive(40)) is None
