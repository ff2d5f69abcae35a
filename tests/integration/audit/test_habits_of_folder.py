"""Habits in a folder: real series untouched and copied into many studies, made-up files with planted deviations."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from iap_node.audit.folder import FolderAudit, audit_files
from iap_node.audit.folder_habits import FolderHabits, compare_series
from iap_node.audit.habit import DEVIATES, SOFTWARE_CHANGED, STUDY
from iap_node.audit.protocol import stated_protocol
from iap_node.audit.vocabulary import Vocabulary
from iap_node.config import HabitConfig
from iap_node.dicom.folder import list_files
from iap_node.dicom.parameters import Nature
from iap_node.dicom.protocol import FIXED
from iap_node.dicom.statements import read_statements
from iap_node.errors import ConfigError
from iap_node.records import FindingKind, PastSeries, StatedProtocol, Witness
from tests.integration.listener.conftest import make_instance
from tests.unit.audit.past_series import past

NOTHING = Vocabulary()
HABITS = {DEVIATES, SOFTWARE_CHANGED, STUDY}


def compared(series: list[PastSeries], config: HabitConfig | None = None) -> FolderHabits:
    return compare_series(series, config or HabitConfig(), NOTHING)


def told(found: FolderHabits) -> dict[int, list[tuple[str, str]]]:
    named = [[(one.check, one.element) for one in of_one] for of_one in found.findings]
    return {place: of_one for place, of_one in enumerate(named) if of_one}


# ---------------------------------------------------------------- real series


@pytest.fixture(scope="module")
def real(mr_real: Path) -> dict[str, StatedProtocol]:
    """What each real series states, by its folder."""
    return {
        folder.name: stated_protocol([read_statements(path) for path in sorted(folder.iterdir())], NOTHING)
        for folder in sorted(mr_real.iterdir())
        if folder.is_dir()
    }


def test_real_series_have_nothing_against_each_other(mr_real: Path) -> None:
    """Even where three series make a habit; the scanner's studies are consistent in themselves."""
    audit = audit_files(mr_real, list_files(mr_real), processes=1, habit=HabitConfig(min_series=3))
    assert [one for series in audit.series for one in series.findings if one.raised_by is Witness.HABIT] == []
    groups = {(one.model, one.protocol): len(one.groups) for one in audit.protocols}
    # prone and both decubitus positions of one protocol are one group
    assert groups["Prisma_fit", "t1_fl2d_sag\\fl\\m original primary"] == 1
    assert sum(one.n_series for one in audit.protocols) == sum(series.group is not None for series in audit.series)


def test_twenty_patients_with_each_real_protocol_make_a_habit_that_every_element_is_held_against(
    real: dict[str, StatedProtocol],
) -> None:
    planted = 0
    for protocol in real.values():
        if not protocol.protocol:
            continue
        values = dict(protocol.values)
        fixed = [element for element in FIXED if element.keyword in values]
        series = [PastSeries(f"{n}", f"study {n}", protocol) for n in range(20)]
        for n, element in enumerate(fixed[:20]):
            text = values[element.keyword]
            other = "ZZ" if element.parameter.nature is Nature.TEXT else _doubled(text)
            changed = tuple(sorted({**values, element.keyword: other}.items()))
            series.append(PastSeries(f"planted {n}", f"planted {n}", replace(protocol, values=changed)))
        found = told(compared(series))
        for n, element in enumerate(fixed[:20]):
            assert found.pop(20 + n, []) == [(DEVIATES, element.keyword)], element.keyword
            planted += 1
        assert found == {}
    assert planted > 500


def _doubled(text: str) -> str:
    if "x" in text:
        frequency, _, phase = text.partition("x")
        return f"{2 * int(frequency)}x{phase}"
    return "\\".join(f"{2 * float(part) + 1:g}" for part in text.split("\\"))


# ---------------------------------------------------------------- made-up series


def test_a_series_does_not_speak_for_itself() -> None:
    series = [past(n) for n in range(10)] + [past(10, EchoTime="4.92")]
    assert told(compared(series)) == {10: [(DEVIATES, "EchoTime")]}
    assert told(compared(series[1:])) == {}  # the deviating one has nine others, the others have eight and itself
    evidence = compared(series).findings[10][0].evidence
    assert "10 of 10 series of this protocol on this scanner since 2026-03 have 2.46 ms" in evidence


def test_what_was_set_wrong_in_a_whole_examination_is_told_of_all_its_series() -> None:
    series = [past(n) for n in range(20)] + [past(20 + n, study="one", EchoTime="4.92") for n in range(4)]
    found = compared(series)
    assert told(found) == {20 + n: [(DEVIATES, "EchoTime")] for n in range(4)}
    assert all("20 of 20 series" in one.evidence for of_one in found.findings for one in of_one)


def test_a_change_of_software_is_told_of_the_first_series_in_time() -> None:
    old = [past(n) for n in range(12)]
    new = [past(20 + n, SoftwareVersions="syngo MR XA30", EchoTime="2.6", FlipAngle="12") for n in range(12)]
    found = compared([*reversed(new), *old])
    assert told(found) == {11: [(SOFTWARE_CHANGED, "SoftwareVersions")]}
    assert [one.n_series for one in found.protocols] == [12, 12]
    timeless = [replace(one, at=None) for one in (*new, *old)]
    assert told(compared(timeless)) == {}


def test_a_protocol_that_was_changed_midway_is_no_deviation_of_those_in_the_minority() -> None:
    new = {"EchoTime": "3.69", "FlipAngle": "15"}
    series = [past(n) for n in range(90)] + [past(n, **new) for n in range(90, 100)]
    series[40] = past(40, **new)
    found = told(compared(series))
    assert found[40] == [(DEVIATES, "SeriesInstanceUID")]
    assert not {place for place in found if place >= 95}


def test_studies_are_compared_within_themselves() -> None:
    scanner = {"FrameOfReferenceUID": "1.2.3"}
    series = [past(n, study="one", protocol=f"p {n}", **scanner) for n in range(4)]
    series += [past(4, study="one", protocol="p 4", **scanner, MagneticFieldStrength="1.5")]
    series += [past(5, study="two", protocol="p 5", **scanner, MagneticFieldStrength="1.5")]
    found = compared(series)
    assert told(found) == {4: [(STUDY, "MagneticFieldStrength")]}
    (finding,) = found.findings[4]
    assert (finding.kind, finding.suggested_value) == (FindingKind.INCONSTANT, "3")


def test_spellings_are_learned_from_the_folder_itself() -> None:
    spelled = [past(n, ManufacturerModelName="TrioTim" if n % 2 else "Trio") for n in range(12)]
    nameless = [past(20 + n, DeviceSerialNumber=None, ManufacturerModelName="TrioTim" if n % 2 else "TRIO")
                for n in range(12)]  # fmt: skip
    found = compared(spelled + nameless)
    assert told(found) == {}
    assert [one.n_series for one in found.protocols] == [12, 12]


# ---------------------------------------------------------------- files


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fourteen patients with one protocol, two of whom another one; the echo time of the last is wrong."""
    root = tmp_path_factory.mktemp("patients")
    for n in range(14):
        variant = n in (5, 6, 7)
        ds = make_instance(
            StudyInstanceUID=f"1.2.840.99.{n}", SeriesInstanceUID=f"1.2.840.99.{n}.1", StudyDate=f"202603{n + 1:02}",
            ManufacturerModelName="Skyra" if n % 2 else "MAGNETOM Skyra", DeviceSerialNumber="45001",
            SoftwareVersions="syngo MR E11", ProtocolName="t1_fl3d_tra", SequenceName="*fl3d1",
            ImageType=["ORIGINAL", "PRIMARY", "M"], ScanningSequence="GR", SequenceVariant="SP",
            MRAcquisitionType="3D", EchoTime="24.6" if n == 13 else "2.46", RepetitionTime="8" if variant else "5.4",
            FlipAngle="15" if variant else "10",
        )  # fmt: skip
        ds.save_as(root / f"{n:02}.dcm", enforce_file_format=True)
    return root


def audited(root: Path, config: HabitConfig) -> FolderAudit:
    return audit_files(root, list_files(root), processes=1, habit=config)


def test_a_folder_of_patients_is_its_own_archive(folder: Path) -> None:
    audit = audited(folder, HabitConfig(min_series=8, share=0.7))
    found = {
        series.study_instance_uid.rpartition(".")[2]: [one for one in series.findings if one.check in HABITS]
        for series in audit.series
    }
    assert {n for n, findings in found.items() if findings} == {"5", "6", "7", "13"}
    (wrong,) = found["13"]
    assert (wrong.element, wrong.suggested_value, wrong.raw) == ("EchoTime", "2.46", "24.6")
    (variant,) = found["6"]
    assert variant.element == "SeriesInstanceUID"
    assert "variant 2 of this protocol (2 other series)" in variant.evidence
    (protocol,) = audit.protocols
    assert [(one.rank, one.n_series) for one in protocol.groups] == [(1, 10), (2, 3), (3, 1)]
    assert {one.group for one in audit.series} == {1, 2, 3}
    assert set(protocol.groups[1].series) == {one.series_key for one in audit.series if one.group == 2}
    assert protocol.dominant.since == datetime(2026, 3, 1, tzinfo=UTC)


def test_a_folder_with_fewer_series_than_asked_for_has_no_habit(folder: Path) -> None:
    audit = audited(folder, HabitConfig(min_series=20))
    assert not [one for series in audit.series for one in series.findings if one.check in HABITS]
    assert audit.protocols


def test_a_vocabulary_that_cannot_be_used_ends_the_audit_before_it_begins(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the vocabulary"):
        audited(folder, HabitConfig(vocabulary=tmp_path / "absent.yaml"))

