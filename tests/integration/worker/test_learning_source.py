"""The archive as a source of training: what was judged, without values that findings stand against."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sqlalchemy import update

from iap_node.database.findings import FindingFilter, decide, list_findings
from iap_node.database.tables import BytesState, InstanceRow
from iap_node.inference.preprocess import Preprocessing
from iap_node.records import FindingState
from training.manifest import read_manifest
from training.prepare import PrepareOptions, prepare
from training.sources import ArchiveSource
from training.sources.archive import GONE, NOVEL

WRONG = {
    "MagneticFieldStrength": "1.5", "ImagingFrequency": "123.2", "ImagedNucleus": "1H",
    "Manufacturer": "GE MEDICAL SYSTEMS",
}  # fmt: skip
FIELD = ("MagneticFieldStrength", "field-strength-and-frequency")


def only(source: ArchiveSource):
    (series,) = source.series()
    assert source.count() == 1
    return series


def decided(node, state: FindingState) -> None:
    with node.database.transaction() as session:
        found = list_findings(session, FindingFilter(states=(), series_id=node.series().id), limit=100)
        (one,) = (one for one in found if (one.element, one.check) == FIELD)
        value = {"value": "3"} if state is FindingState.ACCEPTED else {}
        decide(session, one.id, state, "ada", "seen", **value, now=datetime.now(UTC))


def test_a_value_is_a_label_only_while_nothing_stands_against_it(node, scripted, write_instance, tmp_path) -> None:
    node.complete([write_instance(**WRONG) for _ in range(2)])
    assert list(ArchiveSource(node.database, node.spool).series()) == []  # not judged yet
    node.infer(scripted())
    source = ArchiveSource(node.database, node.spool)
    assert only(source).left_out[FIELD[0]] == FIELD[1]
    assert "Manufacturer" in only(source).left_out  # the pixels contradict it
    assert not only(ArchiveSource(node.database, node.spool, keep_out_open_findings=False)).left_out
    decided(node, FindingState.ACCEPTED)
    assert FIELD[0] in only(source).left_out  # the header is wrong, whatever is right
    prepare(source, tmp_path / "data", Preprocessing(size=32, spectrum_extent=32), PrepareOptions(processes=1))
    (row,) = read_manifest(tmp_path / "data")
    assert (row.labels["MagneticFieldStrength"], row.labels["EchoTime"]) == (None, 2.1)
    assert row.patient == only(source).patient and len(row.patient) == 64
    assert row.source.startswith("archive series ")
    decided(node, FindingState.DISMISSED)
    assert FIELD[0] not in only(source).left_out


def test_novel_series_and_those_without_bytes_are_dropped_with_the_reason(node, scripted, write_instance) -> None:
    node.complete([write_instance()])
    node.infer(scripted(novel=True))
    assert only(ArchiveSource(node.database, node.spool)).dropped_reason == NOVEL
    kept = only(ArchiveSource(node.database, node.spool, keep_novel=True))
    assert kept.dropped_reason is None and len(kept.files) == 1
    with node.database.transaction() as session:
        session.execute(update(InstanceRow).values(bytes_state=BytesState.DELETED))
    assert only(ArchiveSource(node.database, node.spool, keep_novel=True)).dropped_reason == GONE


def test_only_what_was_judged_since_is_new(node, scripted, write_instance) -> None:
    node.complete([write_instance()])
    node.infer(scripted())
    now = datetime.now(UTC)
    assert only(ArchiveSource(node.database, node.spool, since=now - timedelta(hours=1))).dropped_reason is None
    later = ArchiveSource(node.database, node.spool, since=now + timedelta(hours=1))
    assert list(later.series()) == [] and later.count() == 0
