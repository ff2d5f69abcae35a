"""Where values go: one of several that a series has, functional groups of enhanced images, what has no place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from iap_node.correction.copies import Original
from iap_node.errors import PermanentError
from iap_node.records import FindingKind
from tests.unit.correction.conftest import Copies, sop_instance_uid
from tests.unit.correction.test_changes import accepted

Write = Callable[..., Original]
CopiesOf = Callable[..., Copies]


def item(**elements: Any) -> Dataset:
    ds = Dataset()
    for keyword, value in elements.items():
        setattr(ds, keyword, value)
    return ds


def enhanced(shared: Dataset, *frames: Dataset) -> dict[str, Any]:
    """Elements that make an instance an enhanced one."""
    return {
        "SharedFunctionalGroupsSequence": Sequence([shared]),
        "PerFrameFunctionalGroupsSequence": Sequence(list(frames)),
        "NumberOfFrames": len(frames),
        "RepetitionTime": None,
        "EchoTime": None,
    }


def timing(**elements: Any) -> Sequence:
    return Sequence([item(**elements)])


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_values_of_an_enhanced_image_go_into_its_functional_groups(
    syntax: str, write: Write, copies_of: CopiesOf
) -> None:
    private = Dataset()
    private.private_block(0x0021, "A VENDOR", create=True).add_new(0x01, "OB", b"\x07\x08")
    shared = item(
        MRTimingAndRelatedParametersSequence=timing(RepetitionTime="2.5", FlipAngle="90"),
        ReferencedImageSequence=Sequence([private]),
    )
    frames = [item(MREchoSequence=timing(EffectiveEchoTime=20.0)) for _ in range(3)]
    original = write(syntax=syntax, **enhanced(shared, *frames))
    copies = copies_of([original], "RepetitionTime=2500", "EchoTime=2.5")
    (group,) = copies.plan.survey.groups
    assert {(one.attribute.keyword, one.place, one.old, one.new) for one in group.writes} == {
        ("RepetitionTime", "functional groups, all frames", "2.5", "2500"),
        ("EffectiveEchoTime", "functional groups, per frame", "20", "2.5"),
    }
    ds = copies.read()
    shared_copy = ds.SharedFunctionalGroupsSequence[0]
    (timing_copy,) = shared_copy.MRTimingAndRelatedParametersSequence
    assert (timing_copy.RepetitionTime, timing_copy.FlipAngle) == (2500, 90)
    assert [one.MREchoSequence[0].EffectiveEchoTime for one in ds.PerFrameFunctionalGroupsSequence] == [2.5] * 3
    assert "RepetitionTime" not in ds and "EchoTime" not in ds
    assert shared_copy.ReferencedImageSequence[0][0x0021, 0x1001].value == b"\x07\x08"
    modified = ds.OriginalAttributesSequence[0].ModifiedAttributesSequence[0]
    old = modified.SharedFunctionalGroupsSequence[0].MRTimingAndRelatedParametersSequence[0]  # the whole sequence
    assert (old.RepetitionTime, old.FlipAngle) == (2.5, 90)
    assert [one.MREchoSequence[0].EffectiveEchoTime for one in modified.PerFrameFunctionalGroupsSequence] == [20.0] * 3


def test_a_value_that_a_functional_group_lacks_is_added_to_it_and_a_missing_group_refused(
    write: Write, copies_of: CopiesOf
) -> None:
    original = write(**enhanced(item(MRTimingAndRelatedParametersSequence=timing(FlipAngle="9")), item()))
    ds = copies_of([original], "RepetitionTime=2500").read()
    assert ds.SharedFunctionalGroupsSequence[0].MRTimingAndRelatedParametersSequence[0].RepetitionTime == 2500
    with pytest.raises(PermanentError, match=r"Slice Thickness .* belongs into Pixel Measures Sequence"):
        copies_of([original], "SliceThickness=3")


def test_the_top_level_of_an_enhanced_image_takes_what_belongs_there(write: Write, copies_of: CopiesOf) -> None:
    elements = enhanced(item(MRTimingAndRelatedParametersSequence=timing(RepetitionTime="2.5")), item())
    original = write(**elements | {"RepetitionTime": "2.5"})  # against the standard, but seen
    ds = copies_of([original], "MagneticFieldStrength=3", "RepetitionTime=2500").read()
    assert ds.MagneticFieldStrength == 3
    shared = ds.SharedFunctionalGroupsSequence[0]
    assert ds.RepetitionTime == shared.MRTimingAndRelatedParametersSequence[0].RepetitionTime == 2500


def test_what_a_legacy_converted_image_keeps_in_its_classic_form_is_corrected_there(
    write: Write, copies_of: CopiesOf
) -> None:
    shared = item(UnassignedSharedConvertedAttributesSequence=timing(RepetitionTime="2.5"))
    original = write(**enhanced(shared, item()))
    ds = copies_of([original], "RepetitionTime=2500", "FlipAngle=9").read()
    kept = ds.SharedFunctionalGroupsSequence[0].UnassignedSharedConvertedAttributesSequence[0]
    assert (kept.RepetitionTime, kept.FlipAngle) == (2500, 9)


def test_an_enhanced_matrix_is_two_elements_of_its_geometry(write: Write, copies_of: CopiesOf) -> None:
    steps = {"MRAcquisitionFrequencyEncodingSteps": 256, "MRAcquisitionPhaseEncodingStepsInPlane": 230}
    original = write(**enhanced(item(MRFOVGeometrySequence=timing(**steps)), item()))
    ds = copies_of([original], "AcquisitionMatrix=512x358").read()
    (geometry,) = ds.SharedFunctionalGroupsSequence[0].MRFOVGeometrySequence
    assert geometry.MRAcquisitionFrequencyEncodingSteps == 512
    assert geometry.MRAcquisitionPhaseEncodingStepsInPlane == 358
    assert "AcquisitionMatrix" not in ds


def test_references_in_functional_groups_follow(write: Write, copies_of: CopiesOf) -> None:
    reference = item(ReferencedSOPInstanceUID=sop_instance_uid(1), ReferencedFrameNumber=1)
    frame = item(ReferencedImageSequence=Sequence([reference]))
    originals = [write(number, **enhanced(item(), frame, frame)) for number in (1, 2)]
    copies = copies_of(originals, "Manufacturer=X")
    first, second = copies.read(0), copies.read(1)
    for one in second.PerFrameFunctionalGroupsSequence:
        assert one.ReferencedImageSequence[0].ReferencedSOPInstanceUID == first.SOPInstanceUID
        assert one.ReferencedImageSequence[0].ReferencedFrameNumber == 1


def test_a_value_that_varies_is_not_overwritten_unless_told_which(write: Write, copies_of: CopiesOf) -> None:
    originals = [write(number, EchoTime=time) for number, time in enumerate(("0.02", "0.08", "0.020"), 1)]
    with pytest.raises(PermanentError, match=r"Echo Time \(0018,0081\) has 2 values in the series .*EchoTime\[OLD\]"):
        copies_of(originals, "EchoTime=20")
    each = copies_of(originals, "EchoTime[0.02]=20", "EchoTime[0.08]=80")
    assert [each.read(index).EchoTime for index in range(3)] == [20, 80, 20]
    assert sorted(len(group.sop_instance_uids) for group in each.plan.survey.groups) == [1, 2]
    every = copies_of(originals, "EchoTime[*]=20")
    assert [every.read(index).EchoTime for index in range(3)] == [20, 20, 20]
    with pytest.raises(PermanentError, match=r"EchoTime\[0.3\] is set, but '0.3' stands nowhere"):
        copies_of(originals, "EchoTime[0.3]=20")


def test_frames_that_vary_are_not_overwritten_either(write: Write, copies_of: CopiesOf) -> None:
    frames = [item(MREchoSequence=timing(EffectiveEchoTime=time)) for time in (20.0, 80.0)]
    original = write(**enhanced(item(), *frames))
    with pytest.raises(PermanentError, match=r"Effective Echo Time .* has 2 values"):
        copies_of([original], "EchoTime=2.5")
    ds = copies_of([original], "EchoTime[80]=90").read()
    assert [one.MREchoSequence[0].EffectiveEchoTime for one in ds.PerFrameFunctionalGroupsSequence] == [20.0, 90.0]


def test_an_accepted_value_replaces_what_its_finding_is_about(write: Write, copies_of: CopiesOf) -> None:
    originals = [write(number, RepetitionTime=time) for number, time in enumerate(("2500", "2.5", "2500"), 1)]
    copies = copies_of(originals, accepted=[accepted("RepetitionTime", "2500", found="2.5")])
    assert [copies.read(index).RepetitionTime for index in range(3)] == [2500, 2500, 2500]
    changed = [group for group in copies.plan.survey.groups if group.writes]
    assert [group.sop_instance_uids for group in changed] == [(sop_instance_uid(2),)]
    with pytest.raises(PermanentError, match=r"finding 1 .* does not say which is wrong"):
        copies_of(originals, accepted=[accepted("RepetitionTime", "2500", found="99")])


def test_an_inconstant_element_becomes_constant_and_a_missing_one_is_filled_in(
    write: Write, copies_of: CopiesOf
) -> None:
    originals = [write(1, Manufacturer="GE"), write(2, Manufacturer="SIEMENS"), write(3, Manufacturer="")]
    value = accepted("Manufacturer", "SIEMENS")
    constant = copies_of(originals, accepted=[replace(value, kind=FindingKind.INCONSTANT)])
    assert [constant.read(index).Manufacturer for index in range(3)] == ["SIEMENS"] * 3
    filled = copies_of(originals, accepted=[replace(value, kind=FindingKind.MISSING)])
    assert [filled.read(index).Manufacturer for index in range(3)] == ["GE", "SIEMENS", "SIEMENS"]


def test_an_object_without_pixels_gets_no_parameters_that_it_does_not_state(write: Write, copies_of: CopiesOf) -> None:
    raw = write(2, PixelData=None, RepetitionTime=None)
    copies = copies_of([write(1), raw], "RepetitionTime=2500")
    assert "RepetitionTime" not in copies.read(1)
    assert copies.read(1).SeriesInstanceUID == copies.read(0).SeriesInstanceUID
