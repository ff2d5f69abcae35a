"""The INFER handler on real files and databases; the model is scripted, its answers are not the point."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from pydicom.uid import JPEG2000Lossless
from pynetdicom.sop_class import RawDataStorage
from sqlalchemy import update

from iap_node.database import archive
from iap_node.database.findings import ArchivedFinding, FindingFilter, decide, list_findings
from iap_node.database.tables import BytesState, InstanceRow
from iap_node.records import FindingState, JobKind, JobState, SeriesState, Truth, Verdict, Witness


def test_series_is_judged_and_routed_in_one_go(node, scripted, write_instance) -> None:
    node.complete([write_instance(Manufacturer="GE MEDICAL SYSTEMS") for _ in range(3)])
    model = scripted()
    assert node.infer(model)
    assert model.asked == [(3, node.config.audit.alpha)]
    judgement = node.judgement()
    assert judgement.prediction == model.answer
    by_keyword = {item.keyword: item for item in judgement.comparisons}
    assert by_keyword["Manufacturer"].verdict is Verdict.CONTRADICTS
    assert by_keyword["Manufacturer"].suggested_value == "SIEMENS"
    assert by_keyword["EchoTime"].header_value == "2.1"
    assert judgement.decision.domain == "siemens"
    assert judgement.decision.trace[0].truth is Truth.TRUE
    assert judgement.problems == ()
    assert node.job(JobKind.INFER).state is JobState.DONE
    (delivery,) = node.jobs(JobKind.DELIVER)
    assert (delivery.destination, delivery.state) == ("lesions", JobState.READY)
    assert node.series().state is SeriesState.JUDGED
    assert not node.infer(model)


def test_novel_series_gets_no_verdict_and_the_default_route(node, scripted, write_instance) -> None:
    node.complete([write_instance(Manufacturer="GE MEDICAL SYSTEMS")])
    node.infer(scripted(novel=True))
    judgement = node.judgement()
    assert judgement.prediction.novel
    assert {item.verdict for item in judgement.comparisons} == {Verdict.NOT_JUDGED}
    assert judgement.decision.domain is None
    assert [job.destination for job in node.jobs(JobKind.DELIVER)] == ["people"]
    assert node.series().state is SeriesState.JUDGED


def test_series_without_images_is_not_analysed_but_routed(node, scripted, write_instance) -> None:
    node.complete([write_instance(RawDataStorage), write_instance(RawDataStorage)])
    model = scripted()
    node.infer(model)
    assert model.asked == []
    judgement = node.judgement()
    assert judgement.prediction is None
    assert judgement.not_analysed_reason
    assert judgement.decision.reason == f"default route: not analysed: {judgement.not_analysed_reason}"
    assert [job.destination for job in node.jobs(JobKind.DELIVER)] == ["people"]
    assert node.series().state is SeriesState.NOT_ANALYSED


def test_mixed_series_is_judged_by_its_images_only(node, scripted, write_instance) -> None:
    node.complete([write_instance(), write_instance(RawDataStorage, EchoTime="99"), write_instance()])
    model = scripted()
    node.infer(model)
    assert model.asked[0][0] == 2
    by_keyword = {item.keyword: item for item in node.judgement().comparisons}
    assert by_keyword["EchoTime"].header_value == "2.1"


def test_pixels_that_cannot_be_decoded_are_recorded_and_the_series_is_routed(
    node, scripted, write_instance
) -> None:
    instances = [write_instance(transfer_syntax_uid=JPEG2000Lossless) for _ in range(2)]
    node.complete(instances)
    model = scripted()
    node.infer(model)
    assert model.asked == []
    judgement = node.judgement()
    assert judgement.not_analysed_reason.startswith("no pixels could be read: ")
    assert {instance_id for instance_id, _ in judgement.problems} == set(node.instance_ids().values())
    assert [job.destination for job in node.jobs(JobKind.DELIVER)] == ["people"]
    assert node.series().state is SeriesState.NOT_ANALYSED


def test_one_damaged_image_is_a_problem_and_the_rest_is_judged(node, scripted, write_instance) -> None:
    damaged = write_instance(transfer_syntax_uid=JPEG2000Lossless)
    node.complete([write_instance(), damaged, write_instance()])
    model = scripted()
    node.infer(model)
    assert model.asked[0][0] == 2
    ((instance_id, reason),) = node.judgement().problems
    assert instance_id == node.instance_ids()[damaged.sop_instance_uid]
    assert reason


def test_spool_that_cannot_be_read_is_retried_and_then_judged(node, scripted, write_instance) -> None:
    instance = write_instance()
    node.complete([instance])
    path: Path = node.spool_file(instance.sop_instance_uid)
    hidden = path.with_suffix(".away")
    path.rename(hidden)
    model = scripted()
    node.infer(model)
    assert node.job(JobKind.INFER).state is JobState.READY
    hidden.rename(path)
    while node.job(JobKind.INFER).state is JobState.READY:
        node.infer(model)
    assert node.job(JobKind.INFER).state is JobState.DONE
    assert node.judgement().prediction == model.answer


def test_late_instance_during_inference_drops_the_result_and_the_next_revision_has_them_all(
    node, scripted, write_instance
) -> None:
    first, late = write_instance(), write_instance()
    node.complete([first])
    model = scripted()
    answer = model.predict

    def predict(slices, alpha, header):  # the late instance comes while the network works
        if len(model.asked) == 0:
            node.file([late])
        return answer(slices, alpha, header)

    model.predict = predict
    assert node.infer(model)
    assert node.series().judged_revision is None
    assert node.jobs(JobKind.DELIVER) == []
    node.complete([])
    assert node.infer(model)
    assert [n_slices for n_slices, _ in model.asked] == [1, 2]
    assert node.judgement().revision == 2


def test_a_late_instance_is_judged_without_those_whose_bytes_retention_took(node, write_instance, scripted) -> None:
    early, late = write_instance(), write_instance()
    node.complete([early])
    assert node.infer(scripted())
    with node.database.transaction() as session:
        session.execute(update(InstanceRow).values(bytes_state=BytesState.DELETED))
    node.complete([late])
    model = scripted()
    assert node.infer(model)
    assert [n_slices for n_slices, _ in model.asked] == [1]
    ids = node.instance_ids()
    assert [(ids[early.sop_instance_uid], "its bytes are deleted: send it again")] == list(node.judgement().problems)


def test_a_series_without_any_bytes_is_judged_as_not_analysed_and_says_why(node, write_instance, scripted) -> None:
    instance = write_instance()
    node.complete([instance])
    with node.database.transaction() as session:
        session.execute(update(InstanceRow).values(bytes_state=BytesState.LOST))
    assert node.infer(scripted())
    assert node.judgement().not_analysed_reason == "its bytes are lost: send it again"


WRITTEN_IN_HZ = {"MagneticFieldStrength": "3", "ImagingFrequency": "123200000"}
IN_HZ = ("ImagingFrequency", "imaging-frequency-unit")


def findings_of(node, *states: FindingState) -> dict[tuple[str, str], ArchivedFinding]:
    """Of the node's series, by element and check."""
    with node.database.reading() as session:
        found = list_findings(session, FindingFilter(states=states, series_id=node.series().id), limit=1000)
    return {(one.element, one.check): one for one in found}


def test_all_witnesses_are_heard_and_their_findings_stand_beside_the_judgement(node, scripted, write_instance) -> None:
    header = {"ManufacturerModelName": "Skyra", "ImageType": ["ORIGINAL", "PRIMARY"]}
    node.complete([write_instance(Manufacturer="GE MEDICAL SYSTEMS", **header) for _ in range(3)])
    node.infer(scripted())
    found = findings_of(node, FindingState.OPEN)
    assert node.series().n_findings == len(found)
    by_pixels = found["Manufacturer", "pixels-contradict"]
    assert (by_pixels.raised_by, by_pixels.suggested_value, by_pixels.raw) == (
        Witness.PIXELS, "SIEMENS", "GE MEDICAL SYSTEMS",
    )  # fmt: skip
    assert (by_pixels.model_id, by_pixels.training_data) == ("scripted-1", "none: scripted for a test")
    assert [(said.witness, said.against) for said in by_pixels.testimonies] == [
        (Witness.PIXELS, True), (Witness.STANDARD, True),
    ]  # fmt: skip
    by_standard = found["Manufacturer", "manufacturer-and-traces"]
    assert by_standard.conclusion == "the standard and the pixels agree: probably SIEMENS"
    assert by_standard.suggested_value == "SIEMENS"
    assert found["ManufacturerModelName", "model-and-manufacturer"].suggested_value is None


def test_headers_are_checked_though_no_pixels_are_analysed(node, scripted, write_instance) -> None:
    node.complete([write_instance(transfer_syntax_uid=JPEG2000Lossless, **WRITTEN_IN_HZ)])
    node.infer(scripted())
    assert node.series().state is SeriesState.NOT_ANALYSED
    unit = findings_of(node, FindingState.OPEN)[IN_HZ]
    assert (unit.raw, unit.suggested_value) == ("123200000", "123.2")


def test_a_late_instance_updates_findings_and_what_was_dismissed_stays_so(node, scripted, write_instance) -> None:
    node.complete([write_instance(**WRITTEN_IN_HZ)])
    node.infer(scripted())
    before = findings_of(node, FindingState.OPEN)
    unit = before[IN_HZ]
    with node.database.transaction() as session:
        decide(session, unit.id, FindingState.DISMISSED, "ada", "a phantom", now=datetime.now(UTC))
    node.complete([write_instance(**WRITTEN_IN_HZ)])
    node.infer(scripted())
    after = findings_of(node)
    assert after.keys() >= before.keys()
    assert {one.id for one in after.values()} >= {one.id for one in before.values()}
    assert after[IN_HZ].state is FindingState.DISMISSED
    assert after[IN_HZ].last_revision == 2
    assert "2 of 2 instances" in after[IN_HZ].evidence


def test_a_finding_stays_while_the_instances_that_showed_it_cannot_be_read(node, scripted, write_instance) -> None:
    node.complete([write_instance(**WRITTEN_IN_HZ)])
    node.infer(scripted())
    with node.database.transaction() as session:
        session.execute(update(InstanceRow).values(bytes_state=BytesState.DELETED))
    node.complete([write_instance()])
    node.infer(scripted())
    assert node.series().judged_revision == 2
    kept = findings_of(node)[IN_HZ]
    assert (kept.state, kept.last_revision) == (FindingState.OPEN, 1)


def test_what_the_pixels_raised_is_not_gone_when_the_model_abstains(node, scripted, write_instance) -> None:
    contradicted = ("Manufacturer", "pixels-contradict")
    node.complete([write_instance(Manufacturer="GE MEDICAL SYSTEMS")])
    node.infer(scripted())
    with node.database.transaction() as session:
        decide(session, findings_of(node)[contradicted].id, FindingState.ACCEPTED, "ada", now=datetime.now(UTC))
    node.complete([write_instance(Manufacturer="GE MEDICAL SYSTEMS")])
    node.infer(scripted(novel=True))
    assert node.series().judged_revision == 2
    kept = findings_of(node)[contradicted]
    assert (kept.state, kept.accepted_value, kept.last_revision) == (FindingState.ACCEPTED, "SIEMENS", 1)


def test_what_a_scanner_always_writes_is_learned_and_told(node, scripted, write_instance) -> None:
    protocol = {
        "Manufacturer": "SIEMENS", "ManufacturerModelName": "Skyra", "DeviceSerialNumber": "77",
        "SoftwareVersions": "VE11", "ProtocolName": "t1_fl3d", "SequenceName": "fl3d1", "MRAcquisitionType": "3D",
    }  # fmt: skip
    config = node.config.audit.habit
    for number in range(config.min_series + 1):
        uids = {"StudyInstanceUID": f"1.2.3.{number}", "SeriesInstanceUID": f"1.2.3.{number}.1"}
        node.file([write_instance(**protocol, **uids, FlipAngle="10")])
        with node.database.transaction() as session:
            archive.complete_series(session, [uids["SeriesInstanceUID"]], datetime.now(UTC))
        node.infer(scripted())
    node.complete([write_instance(**protocol, FlipAngle="40")])
    node.infer(scripted())
    habit = findings_of(node, FindingState.OPEN)["FlipAngle", "habit-deviates"]
    assert (habit.raised_by, habit.raw, habit.suggested_value) == (Witness.HABIT, "40", None)
    assert habit.conclusion == "unlike what this scanner usually writes; that alone is no reason to change it"
    assert any("11 of 11 series" in said.statement for said in habit.testimonies)
