"""The INFER handler on real files and databases; the model is scripted, its answers are not the point."""

from __future__ import annotations

from pathlib import Path

from pydicom.uid import JPEG2000Lossless
from pynetdicom.sop_class import RawDataStorage
from sqlalchemy import update

from iap_node.database.tables import BytesState, InstanceRow
from iap_node.records import JobKind, JobState, SeriesState, Truth, Verdict


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
