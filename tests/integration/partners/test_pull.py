"""Pulling from real archives: Orthanc by C-MOVE and by C-GET, DCMTK's dcmqrscp by both."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import structlog
import yaml
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage
from pynetdicom import AE, evt
from typer.testing import CliRunner

from iap_node.cli import app
from iap_node.config import PullScheduleConfig, SourceConfig
from iap_node.database.tables import InstanceRow
from iap_node.dicom.query import STUDY_ROOT_FIND
from iap_node.errors import DeliveryError, PermanentError
from iap_node.pull.retrieve import STUDY_ROOT_GET, Retriever
from iap_node.pull.run import PulledSeries, PullOutcome, pull
from iap_node.pull.schedule import run_scheduled, wanted_by
from iap_node.pull.search import Wanted
from tests.integration.listener.conftest import Node, encode
from tests.integration.partners.conftest import WAIT_S, Orthanc, free_port, is_listening, part10

sqlite = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


def run(
    node: Node, port: int, wanted: Wanted, ae_title: str = "ORTHANC", dry_run: bool = False, **settings: Any
) -> dict[str, PulledSeries]:
    """What became of each series."""
    source = SourceConfig.model_validate({"ae_title": ae_title, "host": "127.0.0.1", "port": port} | settings)
    retriever = Retriever(source, node.config.ae_title, node.intake)
    found = pull(wanted, retriever, node.database, node.intake, dry_run=dry_run, arrival_s=5.0)
    return {one.series_instance_uid: one for one in found}


def held(node: Node) -> set[str]:
    return {row.sop_instance_uid for row in node.rows(InstanceRow)}


@sqlite
@pytest.mark.parametrize("retrieve", ["move", "get"])
def test_a_study_is_pulled_from_orthanc_and_then_only_what_is_new(
    retrieve: str, orthanc: Orthanc, make_node: Callable[..., Node], make_series: Callable[..., list[Dataset]]
) -> None:
    node = make_node()
    orthanc.knows("IAP_NODE", node.port)
    study = f"1.2.826.7.{('move', 'get').index(retrieve)}"
    mr = make_series(study, 3, SeriesDescription="T1 mprage", StudyDate="20260102")
    other = make_series(study, 2, SeriesInstanceUID=f"{study}.2", SeriesDescription="loc", StudyDate="20260102")
    for ds in (*mr[:2], *other):
        orthanc.upload(ds)
    wanted = Wanted(("MR",), "20260101-20260103", "t1*", "SECRET-4711", study)
    assert run(node, orthanc.dicom_port, wanted, retrieve=retrieve, dry_run=True)[f"{study}.1"].outcome == "wanted"
    assert not held(node)
    pulled = run(node, orthanc.dicom_port, wanted, retrieve=retrieve)
    assert set(pulled) == {f"{study}.1"}
    one = pulled[f"{study}.1"]
    assert (one.outcome, one.n_held, one.n_pulled, one.problem) == (PullOutcome.PULLED, 0, 2, "")
    assert held(node) == {ds.SOPInstanceUID for ds in mr[:2]}
    assert node.stored_dataset(mr[0].SOPInstanceUID) == (ExplicitVRLittleEndian, encode(mr[0]))
    assert run(node, orthanc.dicom_port, wanted, retrieve=retrieve)[f"{study}.1"].outcome is PullOutcome.HERE
    orthanc.upload(mr[2])  # a late instance: it alone is asked for
    one = run(node, orthanc.dicom_port, wanted, retrieve=retrieve)[f"{study}.1"]
    assert (one.outcome, one.n_held, one.n_pulled) == (PullOutcome.PULLED, 2, 1)
    assert run(node, orthanc.dicom_port, Wanted(study_date="20260104-", study_instance_uid=study)) == {}
    (row, *_) = node.rows(InstanceRow)
    assert row.calling_ae_title == "ORTHANC"


@sqlite
def test_a_pull_whose_instances_do_not_arrive_says_what_to_look_at(
    orthanc: Orthanc, make_node: Callable[..., Node], make_series: Callable[..., list[Dataset]]
) -> None:
    node = make_node()
    orthanc.upload(make_series("1.2.826.8", 1)[0])
    orthanc.ask("PUT", "/modalities/node", {"AET": "SOMEBODY", "Host": "127.0.0.1", "Port": node.port})
    wanted = Wanted(study_instance_uid="1.2.826.8")
    (one,) = run(node, orthanc.dicom_port, wanted).values()
    assert one.outcome is PullOutcome.INCOMPLETE and one.problem
    with pytest.raises(DeliveryError, match="cannot be reached"):
        run(node, free_port(), wanted)
    with pytest.raises(PermanentError, match="YYYYMMDD"):
        Wanted(study_date="yesterday")


@pytest.fixture
def dcmqrscp(
    program: Callable[[str, str], str], tmp_path: Path, make_series: Callable[..., list[Dataset]]
) -> Iterator[Callable[[int, list[Dataset]], int]]:
    """DCMTK's archive, holding what it is given and knowing our listener; its port."""
    index, serve = program("dcmqridx", "dcmtk"), program("dcmqrscp", "dcmtk")
    processes: list[subprocess.Popen[bytes]] = []

    def start(node_port: int, instances: list[Dataset]) -> int:
        folder = tmp_path / "pacs"
        folder.mkdir()
        paths = []
        for ds in instances:
            paths.append(folder / f"{ds.SOPInstanceUID}.dcm")
            paths[-1].write_bytes(part10(ds))
        subprocess.run([index, str(folder), *map(str, paths)], check=True, capture_output=True, timeout=60)
        port = free_port()
        config = tmp_path / "dcmqrscp.cfg"
        config.write_text(
            f"NetworkTCPPort = {port}\nMaxPDUSize = 16384\nMaxAssociations = 16\n"
            f"HostTable BEGIN\nnode = (IAP_NODE, 127.0.0.1, {node_port})\nHostTable END\n"
            f"VendorTable BEGIN\nVendorTable END\n"
            f"AETable BEGIN\nQRSCP {folder} RW (200, 1024mb) ANY\nAETable END\n"
        )
        processes.append(subprocess.Popen([serve, "-ll", "error", "-c", str(config)], cwd=tmp_path))
        deadline = time.monotonic() + WAIT_S
        while not is_listening(port):
            assert processes[-1].poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        return port

    yield start
    for process in processes:
        process.kill()
        process.wait()


@sqlite
@pytest.mark.parametrize("retrieve", ["move", "get"])
def test_a_series_is_pulled_from_dcmqrscp(
    retrieve: str,
    dcmqrscp: Callable[[int, list[Dataset]], int],
    make_node: Callable[..., Node],
    make_series: Callable[..., list[Dataset]],
) -> None:
    node = make_node()
    series = make_series("1.2.826.9", 2, StudyDate="20260102", StudyTime="101010", StudyID="1", AccessionNumber="7")
    port = dcmqrscp(node.port, series)
    wanted = Wanted(("MR",), "20260101-", study_instance_uid="1.2.826.9")
    (one,) = run(node, port, wanted, "QRSCP", retrieve=retrieve, instances_per_minute=60_000).values()
    assert (one.outcome, one.n_pulled, one.problem) == (PullOutcome.PULLED, 2, "")
    assert held(node) == {ds.SOPInstanceUID for ds in series}
    (one,) = run(node, port, wanted, "QRSCP", retrieve=retrieve).values()
    assert one.outcome is PullOutcome.HERE


def test_a_schedule_asks_for_the_last_days_and_survives_a_pacs_that_is_away() -> None:
    schedule = PullScheduleConfig(cron="0 2 * * 1", days=2, modalities=("MR",), description="t1*")
    now = datetime(2026, 3, 1, 12, tzinfo=UTC)
    assert wanted_by(schedule, now) == Wanted(("MR",), "20260227-20260301", "t1*")
    assert wanted_by(schedule.model_copy(update={"days": None}), now).study_date == ""
    asked = []

    def away(name: str, wanted: Wanted) -> list[PulledSeries]:
        asked.append(name)
        raise DeliveryError("away")

    run_scheduled("pacs", schedule, away)
    assert asked == ["pacs"]


@sqlite
def test_a_pull_that_the_archive_breaks_off_goes_on_where_it_was(
    make_node: Callable[..., Node], make_series: Callable[..., list[Dataset]]
) -> None:
    node = make_node(start=False)
    series = make_series("1.2.826.11", 3)
    asked: list[tuple[str, list[str]]] = []

    def find(event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        level = event.identifier.QueryRetrieveLevel
        for ds in series if level == "IMAGE" else series[:1]:
            match = Dataset()
            match.StudyInstanceUID, match.SeriesInstanceUID = ds.StudyInstanceUID, ds.SeriesInstanceUID
            match.SOPInstanceUID, match.NumberOfSeriesRelatedInstances = ds.SOPInstanceUID, 3
            yield 0xFF00, match
        if len(asked) == 2:  # the third time it knows nothing of what it had
            yield 0x0110, None

    def get(event: evt.Event) -> Iterator[Any]:
        uids = event.identifier.get("SOPInstanceUID", None)
        asked.append((event.identifier.QueryRetrieveLevel, [uids] if isinstance(uids, str) else list(uids or ())))
        wanted = [ds for ds in series if not uids or ds.SOPInstanceUID in asked[-1][1]]
        yield len(wanted)
        for number, ds in enumerate(wanted):
            if len(asked) == 1 and number == 2:
                event.assoc.abort()
                return
            yield 0xFF00, ds

    ae = AE(ae_title="BROKEN")
    for uid in (STUDY_ROOT_FIND, STUDY_ROOT_GET):
        ae.add_supported_context(uid)
    ae.add_supported_context(MRImageStorage, ExplicitVRLittleEndian, scu_role=True, scp_role=True)
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_FIND, find), (evt.EVT_C_GET, get)])
    port = server.server_address[1]
    try:
        with pytest.raises(DeliveryError, match="did not answer, or ended"):
            run(node, port, Wanted(), "BROKEN", retrieve="get", timeout_s=20)
        assert held(node) == {ds.SOPInstanceUID for ds in series[:2]}
        (one,) = run(node, port, Wanted(), "BROKEN", retrieve="get", timeout_s=20).values()
        assert (one.outcome, one.n_held, one.n_pulled) == (PullOutcome.PULLED, 2, 1)
        assert asked == [("SERIES", []), ("IMAGE", [series[2].SOPInstanceUID])]
        with pytest.raises(DeliveryError, match="0110H"):
            run(node, port, Wanted(), "BROKEN", retrieve="get", timeout_s=20)
    finally:
        server.shutdown()


@sqlite
def test_a_pull_waits_to_stay_below_its_rate(make_node: Callable[..., Node]) -> None:
    pauses: list[float] = []
    settings = {"ae_title": "PACS", "host": "127.0.0.1", "port": 1, "instances_per_minute": 60}
    source = SourceConfig.model_validate(settings)
    retriever = Retriever(source, "IAP_NODE", make_node(start=False).intake, pause=pauses.append)
    for _ in range(3):  # nobody waits here, so that each pause is the longer
        retriever._keep_pace(1)
    assert [round(seconds) for seconds in pauses] == [1, 2, 3]


@pytest.fixture
def logs_as_before() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def test_the_command_pulls_tells_and_logs_no_patient(
    orthanc: Orthanc,
    make_series: Callable[..., list[Dataset]],
    tmp_path: Path,
    migrated_sqlite: Path,
    logs_as_before: None,
) -> None:
    for ds in make_series("1.2.826.10", 2):
        orthanc.upload(ds)
    source = {"ae_title": "ORTHANC", "host": "127.0.0.1", "port": orthanc.dicom_port, "retrieve": "get"}
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"data_dir": "var", "sources": {"pacs": source}, "spool": {"disk_reserve_mb": 0}}))
    (tmp_path / "var" / "spool").mkdir(parents=True)
    shutil.copyfile(migrated_sqlite, tmp_path / "var" / "node.sqlite")
    arguments = ["--config", str(config), "--patient-id", "-", "--study", "1.2.826.10"]
    done = CliRunner().invoke(app, ["pull", "pacs", *arguments, "--json"], input="SECRET-4711\n")
    assert done.exit_code == 0, done.output
    (one,) = json.loads(done.stdout)
    assert (one["outcome"], one["n_pulled"]) == ("pulled", 2)
    done = CliRunner().invoke(app, ["pull", "pacs", *arguments], input="SECRET-4711\n")
    assert "1 series here already; 0 instances pulled" in done.output
    done = CliRunner().invoke(app, ["pull", "pacs", *arguments], input="NOBODY\n")
    assert "no such series there" in done.output
    assert "SECRET" not in repr(Wanted(patient_id="SECRET-4711"))
    assert CliRunner().invoke(app, ["pull", "pax", "--config", str(config)]).exit_code == 4
