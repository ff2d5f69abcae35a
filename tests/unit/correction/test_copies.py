"""Copies of instances in every transfer syntax: what changes, what stays to the byte, what they say of themselves."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from hashlib import sha256
from io import BytesIO
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from iap_node.correction.copies import Original
from iap_node.correction.values import encode_element
from iap_node.dicom.elements import Encoding
from iap_node.dicom.encoded import EncodedInstance, PartsStream, damage_is_told
from iap_node.errors import PermanentError, UnreadableInstance
from tests.unit.correction.conftest import AT, PIXELS, SERIES, Copies, sop_instance_uid

Write = Callable[..., Original]
CopiesOf = Callable[..., Copies]
SYNTAXES = (
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)
EXPECTED_TO_CHANGE = {
    0x00080012, 0x00080013, 0x00080018, 0x0020000E,  # creation, UIDs
    0x0018A001, 0x04000561,  # contributing equipment, original attributes
}  # fmt: skip


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda uid: uid.name)
def test_everything_but_what_is_corrected_stays_to_the_byte(
    syntax: str, write: Write, copies_of: CopiesOf, top_level_elements: Any, tmp_path: Any
) -> None:
    original = write(syntax=syntax, Manufacturer="M\xfcller", SpecificCharacterSet="ISO_IR 100")
    before = sha256(original.file.read_bytes()).digest()
    copies = copies_of([original], "RepetitionTime=2500", "FlipAngle=9")
    copy = tmp_path / "copy.dcm"
    copy.write_bytes(copies.content())
    old, new = top_level_elements(original.file), top_level_elements(copy)
    changed = {tag for tag in old.keys() | new.keys() if old.get(tag) != new.get(tag)}
    assert changed == EXPECTED_TO_CHANGE | {0x00180080, 0x00181314}
    assert list(new) == sorted(new)
    ds = copies.read()
    assert (ds.RepetitionTime, ds.FlipAngle) == (2500, 9)
    assert ds.file_meta.TransferSyntaxUID == syntax
    assert ds.file_meta.MediaStorageSOPInstanceUID == ds.SOPInstanceUID
    assert sha256(original.file.read_bytes()).digest() == before


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda uid: uid.name)
def test_the_old_values_stand_in_the_original_attributes_sequence(
    syntax: str, write: Write, copies_of: CopiesOf
) -> None:
    copies = copies_of([write(syntax=syntax)], "RepetitionTime=2500", "FlipAngle=9")
    (item,) = copies.read().OriginalAttributesSequence
    assert item.AttributeModificationDateTime == "20260301123005+0000"
    assert item.ModifyingSystem == "IAP node 0.1.0"
    assert item.SourceOfPreviousValues == "SCANNER"
    assert item.ReasonForTheAttributeModification == "CORRECT"
    (modified,) = item.ModifiedAttributesSequence
    assert modified.RepetitionTime == 2.5
    assert modified["FlipAngle"].is_empty  # absent before: zero length, PS3.3 C.12.1.1.9
    assert modified.SOPInstanceUID == sop_instance_uid(1)
    assert modified.SeriesInstanceUID == SERIES
    assert modified.InstanceCreationDate == "20200101"
    assert "EchoTime" not in modified
    assert "NonconformingModifiedAttributesSequence" not in item


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda uid: uid.name)
def test_this_node_stands_in_the_contributing_equipment_sequence(
    syntax: str, write: Write, copies_of: CopiesOf
) -> None:
    (item,) = copies_of([write(syntax=syntax)], "RepetitionTime=2500").read().ContributingEquipmentSequence
    (purpose,) = item.PurposeOfReferenceCodeSequence
    assert (purpose.CodeValue, purpose.CodingSchemeDesignator) == ("109103", "DCM")
    assert purpose.CodeMeaning == "Modifying Equipment"
    assert (item.Manufacturer, item.SoftwareVersions) == ("IAP node", "0.1.0")
    assert item.ContributionDateTime == "20260301123005+0000"
    assert "RepetitionTime" in item.ContributionDescription


def test_earlier_items_of_both_sequences_stay_before_the_new_one(write: Write, copies_of: CopiesOf) -> None:
    earlier, equipment = Dataset(), Dataset()
    earlier.ModifyingSystem, earlier.SourceOfPreviousValues = "PACS", "SCANNER"
    earlier.ModifiedAttributesSequence = Sequence([Dataset()])
    earlier.ModifiedAttributesSequence[0].SOPInstanceUID = sop_instance_uid(1)
    equipment.Manufacturer = "SCANNER MAKER"
    for undefined in (False, True):
        sequences = {
            "OriginalAttributesSequence": Sequence([earlier]), "ContributingEquipmentSequence": Sequence([equipment]),
        }  # fmt: skip
        for value in sequences.values():
            value.is_undefined_length = undefined
        ds = copies_of([write(**sequences)], "RepetitionTime=2500").read()
        assert [item.ModifyingSystem for item in ds.OriginalAttributesSequence] == ["PACS", "IAP node 0.1.0"]
        assert [item.Manufacturer for item in ds.ContributingEquipmentSequence] == ["SCANNER MAKER", "IAP node"]
        past = ds.OriginalAttributesSequence[0].ModifiedAttributesSequence[0]
        assert past.SOPInstanceUID == sop_instance_uid(1)  # what was said of the past stays true


def test_an_old_value_against_its_representation_is_kept_as_bytes(
    write: Write, copies_of: CopiesOf, tmp_path: Any
) -> None:
    original = write(RepetitionTime="2500")
    content = original.file.read_bytes()
    assert content.count(b"DS\x04\x002500") == 1
    original.file.write_bytes(content.replace(b"DS\x04\x002500", b"DS\x04\x002,5s"))
    (item,) = copies_of([original], "RepetitionTime=2500").read().OriginalAttributesSequence
    assert item.ModifiedAttributesSequence[0]["RepetitionTime"].is_empty
    (kept,) = item.NonconformingModifiedAttributesSequence
    assert kept.SelectorAttribute == 0x00180080
    assert kept.NonconformingDataElementValue == b"2,5s"


def test_the_copy_is_a_new_instance_of_a_new_series_of_the_same_study(write: Write, copies_of: CopiesOf) -> None:
    creator = "1.2.840.99"
    copies = copies_of([write(1, InstanceCreatorUID=creator), write(2)], "RepetitionTime=2500")
    first, second = copies.read(0), copies.read(1)
    assert first.StudyInstanceUID == second.StudyInstanceUID == "1.2.3"
    assert first.SeriesInstanceUID == second.SeriesInstanceUID != SERIES
    uids = {first.SOPInstanceUID, second.SOPInstanceUID, first.SeriesInstanceUID}
    assert len(uids) == 3
    assert all(uid.startswith("2.25.") and len(uid) <= 64 for uid in uids)
    assert first.SOPInstanceUID == copies.instances[0].sop_instance_uid
    assert first.InstanceCreationDate == f"{AT.astimezone():%Y%m%d}"
    assert first.InstanceCreationTime == f"{AT.astimezone():%H%M%S}"
    assert "InstanceCreatorUID" not in first  # the scanner did not create this one
    assert first.OriginalAttributesSequence[0].ModifiedAttributesSequence[0].InstanceCreatorUID == creator
    assert (first.ImageType, first.SeriesDescription) == (["ORIGINAL", "PRIMARY", "M"], "t1")  # the pixels are the same


def test_the_creation_time_follows_the_time_zone_of_the_instance(write: Write, copies_of: CopiesOf) -> None:
    ds = copies_of([write(TimezoneOffsetFromUTC="-0530")], "RepetitionTime=2500").read()
    local = AT - timedelta(hours=5, minutes=30)
    assert (ds.InstanceCreationDate, ds.InstanceCreationTime) == (f"{local:%Y%m%d}", f"{local:%H%M%S}")


def test_the_same_correction_makes_the_same_copies_and_another_one_others(write: Write, copies_of: CopiesOf) -> None:
    original = write()
    one, again = (copies_of([original], "RepetitionTime=2500", "FlipAngle=9") for _ in range(2))
    assert one.content() == again.content()
    other = copies_of([original], "RepetitionTime=2501", "FlipAngle=9")
    assert other.read().SOPInstanceUID != one.read().SOPInstanceUID
    assert other.read().SeriesInstanceUID != one.read().SeriesInstanceUID


def test_references_within_the_series_follow_and_others_stay(
    write: Write, copies_of: CopiesOf, top_level_elements: Any
) -> None:
    def reference(uid: str) -> Dataset:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.4", uid
        return item

    series = Dataset()
    series.SeriesInstanceUID = SERIES
    series.ReferencedInstanceSequence = Sequence([reference(sop_instance_uid(2))])
    originals = [
        write(
            1,
            SourceImageSequence=Sequence([reference(sop_instance_uid(2)), reference("1.9.9")]),
            ReferencedSeriesSequence=Sequence([series]),
            ReferencedImageSequence=Sequence([reference("1.9.8")]),
            ConcatenationUID="1.7.7",
            FrameOfReferenceUID="1.6.6",
        ),
        write(2),
    ]
    copies = copies_of(originals, "RepetitionTime=2500")
    first, second = copies.read(0), copies.read(1)
    assert [item.ReferencedSOPInstanceUID for item in first.SourceImageSequence] == [second.SOPInstanceUID, "1.9.9"]
    (of_series,) = first.ReferencedSeriesSequence
    assert of_series.SeriesInstanceUID == first.SeriesInstanceUID
    assert of_series.ReferencedInstanceSequence[0].ReferencedSOPInstanceUID == second.SOPInstanceUID
    assert first.ReferencedImageSequence[0].ReferencedSOPInstanceUID == "1.9.8"
    assert first.ConcatenationUID != "1.7.7"
    assert first.FrameOfReferenceUID == "1.6.6"
    modified = first.OriginalAttributesSequence[0].ModifiedAttributesSequence[0]
    assert modified.SourceImageSequence[0].ReferencedSOPInstanceUID == sop_instance_uid(2)
    assert "ReferencedImageSequence" not in modified


def test_kept_uids_keep_references_and_creation_and_say_when_the_instance_was_changed(
    write: Write, copies_of: CopiesOf
) -> None:
    originals = [write(1), write(2, RepetitionTime="2500")]
    copies = copies_of(originals, "RepetitionTime[2.5]=2500", keep_uids=True)
    ds = copies.read(0)
    assert (ds.SOPInstanceUID, ds.SeriesInstanceUID) == (sop_instance_uid(1), SERIES)
    assert ds.InstanceCreationDate == "20200101"
    assert ds.InstanceCoercionDateTime == "20260301123005+0000"
    assert ds.RepetitionTime == 2500
    unchanged = copies.content(1)
    same = originals[1].file.read_bytes()
    assert unchanged[unchanged.index(b"\x08\0\x08\0CS") :] == same[same.index(b"\x08\0\x08\0CS") :]
    assert "OriginalAttributesSequence" not in copies.read(1)


def test_signatures_of_what_is_no_more_go_and_group_lengths_of_changed_groups_too(
    write: Write, copies_of: CopiesOf, top_level_elements: Any, tmp_path: Any
) -> None:
    signature = Dataset()
    signature.MACIDNumber = 1
    original = write(DigitalSignaturesSequence=Sequence([signature]), MACParametersSequence=Sequence([signature]))
    content = original.file.read_bytes()
    place = content.index(b"\x18\x00\x80\x00DS")
    original.file.write_bytes(content[:place] + b"\x18\0\0\0UL\x04\0\x63\0\0\0" + content[place:])
    copy = tmp_path / "copy.dcm"
    copies = copies_of([original], "RepetitionTime=2500")
    copy.write_bytes(copies.content())
    assert {0x4FFE0001, 0xFFFAFFFA, 0x00180000}.isdisjoint(top_level_elements(copy))
    assert copies.read().PixelData == PIXELS


def test_an_element_that_goes_is_kept_as_it_was(write: Write, copies_of: CopiesOf) -> None:
    from tests.unit.correction.test_changes import accepted

    value = accepted("ContrastBolusAgent", "absent", found="MAGNEVIST")
    ds = copies_of([write(ContrastBolusAgent="MAGNEVIST")], accepted=[value]).read()
    assert "ContrastBolusAgent" not in ds
    assert ds.OriginalAttributesSequence[0].ModifiedAttributesSequence[0].ContrastBolusAgent == "MAGNEVIST"


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        ({"AcquisitionMatrix": [0, 256, 230, 0]}, [0, 512, 358, 0]),
        ({"AcquisitionMatrix": [256, 0, 0, 230], "InPlanePhaseEncodingDirection": "ROW"}, [512, 0, 0, 358]),
        ({"AcquisitionMatrix": [256, 256, 0, 0], "InPlanePhaseEncodingDirection": "ROW"}, [0, 512, 358, 0]),
        ({"InPlanePhaseEncodingDirection": "COL"}, [512, 0, 0, 358]),
    ],
)
def test_a_matrix_goes_the_way_of_the_phase(
    elements: dict[str, Any], expected: list[int], write: Write, copies_of: CopiesOf
) -> None:
    assert copies_of([write(**elements)], "AcquisitionMatrix=512x358").read().AcquisitionMatrix == expected


def test_a_matrix_that_may_go_either_way_is_refused_and_four_values_are_taken(
    write: Write, copies_of: CopiesOf
) -> None:
    original = write()
    with pytest.raises(PermanentError, match="which way the phase goes"):
        copies_of([original], "AcquisitionMatrix=512x358")
    four = copies_of([original], r"AcquisitionMatrix=512\0\0\358")
    assert four.read().AcquisitionMatrix == [512, 0, 0, 358]


def test_text_that_an_instance_has_no_characters_for_is_refused_before_anything_is_written(
    write: Write, copies_of: CopiesOf
) -> None:
    with pytest.raises(PermanentError, match="character set ISO_IR 6 lacks a character"):
        copies_of([write()], "Manufacturer=M\xfcller")


def test_a_damaged_instance_is_refused_by_its_uid(write: Write, copies_of: CopiesOf) -> None:
    original = write(syntax=DeflatedExplicitVRLittleEndian)
    content = original.file.read_bytes()
    original.file.write_bytes(content[:-40])
    with pytest.raises(PermanentError, match=f"instance {sop_instance_uid(1)} cannot be copied: .*cut off"):
        copies_of([original], "RepetitionTime=2500")


def test_an_instance_that_becomes_damaged_after_the_survey_is_an_unreadable_one(
    write: Write, copies_of: CopiesOf
) -> None:
    copies = copies_of([write()], "RepetitionTime=2500")
    copies.instances[0].original.file.write_bytes(b"nothing of the kind" * 20)
    with pytest.raises(UnreadableInstance):
        copies.content()


def test_an_instance_that_is_written_otherwise_than_declared_stays_consistent(
    write: Write, copies_of: CopiesOf, top_level_elements: Any, tmp_path: Any
) -> None:
    original = write()
    content = original.file.read_bytes()
    explicit, implicit = (uid.encode().ljust(20, b"\0") for uid in (ExplicitVRLittleEndian, ImplicitVRLittleEndian))
    assert content.count(explicit) == 1
    original.file.write_bytes(content.replace(explicit, implicit))
    copy = tmp_path / "copy.dcm"
    copy.write_bytes(copies_of([original], "RepetitionTime=2500", "FlipAngle=9").content())
    old, new = top_level_elements(original.file), top_level_elements(copy)
    assert new[0x00181314] == b"\x18\0\x14\x13DS\x02\x009 "
    changed = {tag for tag in old.keys() | new.keys() if old.get(tag) != new.get(tag)}
    assert changed == EXPECTED_TO_CHANGE | {0x00180080, 0x00181314}


@given(st.dictionaries(st.sampled_from(range(0x00100010, 0x00100020)), st.binary(max_size=6), max_size=12), st.data())
def test_elements_are_exchanged_in_order_whatever_is_there(there: dict[int, bytes], data: st.DataObject) -> None:
    encoding = Encoding(implicit=False, little=True)

    def encoded(values: dict[int, bytes]) -> dict[int, bytes]:
        return {tag: encode_element(tag, "LO", value, encoding) for tag, value in sorted(values.items())}

    tags = st.sampled_from(range(0x0010000F, 0x00100022))
    wanted = data.draw(st.dictionaries(tags, st.binary(max_size=6), max_size=8))
    gone = data.draw(st.sets(tags, max_size=4))
    new = {**encoded(wanted), **dict.fromkeys(gone, b"")}
    stream = BytesIO(b"head" + b"".join(encoded(there).values()))
    stream.seek(4)
    parts = EncodedInstance(stream, ExplicitVRLittleEndian).exchanged(new)
    expected = {tag: value for tag, value in encoded({**there, **wanted}).items() if tag not in gone}
    assert PartsStream(parts, stream).readall() == b"".join(expected.values())


def test_nothing_is_put_behind_an_element_that_is_cut_off(write: Write, copies_of: CopiesOf) -> None:
    original = write(PixelData=None)
    content = original.file.read_bytes()
    original.file.write_bytes(content[:-2])
    with pytest.raises(UnreadableInstance, match="cut off"):
        copies_of([original], "RepetitionTime=2500").content()


def test_references_in_a_sequence_that_is_written_wrongly_follow_and_nothing_else_suffers(
    write: Write, copies_of: CopiesOf
) -> None:
    item = Dataset()
    item.ReferencedSOPInstanceUID = sop_instance_uid(1)
    original = write(SourceImageSequence=Sequence([item]))
    content = original.file.read_bytes()
    place = content.index(b"\x08\0\x12\x21SQ") + 16  # the length of its item
    original.file.write_bytes(content[:place] + b"\xff\xff\xff\x7f" + content[place + 4 :])
    ds = copies_of([original], "RepetitionTime=2500").read()
    assert ds.SourceImageSequence[0].ReferencedSOPInstanceUID == ds.SOPInstanceUID
    assert (ds.RepetitionTime, ds.PixelData) == (2500, PIXELS)


def test_damage_in_memory_is_an_error_of_the_instance() -> None:
    with pytest.raises(UnreadableInstance, match=r"damaged \(EOFError\)"), damage_is_told():
        raise EOFError


def test_a_value_beyond_what_its_element_holds_is_refused(write: Write, copies_of: CopiesOf) -> None:
    with pytest.raises(PermanentError, match="cannot be written into"):
        copies_of([write()], "SoftwareVersions=" + "\\".join(["x" * 60] * 2000))
