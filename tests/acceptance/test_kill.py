"""SIGKILL at bad moments: nothing acknowledged is lost, nothing is done twice.

Does not cover power cuts (what was written but not synced), nor a database that is killed: see drill/
"""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from pynetdicom import AE, evt
from pynetdicom.events import Event
from pynetdicom.presentation import build_context
from sqlalchemy import func, select

from iap_node.database.tables import InstanceDeliveryRow, InstanceRow, JobRow, JudgementRow, PredictionRow
from iap_node.listener.intake import Intake
from iap_node.listener.patients import load_or_create_patient_key
from iap_node.listener.recovery import recover
from iap_node.records import JobKind, JobState
from iap_node.spool import Spool
from tests.acceptance.conftest import RunningNode, wait_for
from tests.acceptance.test_real_corpus import corpus_files
from tests.integration.listener.conftest import lying_in

OUT_OF_RESOURCES = 0xA700
UNCOMPRESSED = {"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"}


@pytest.fixture
def sent_files(mr_real: Path) -> list[Path]:
    """Classic uncompressed instances of several scanners, whole and small."""
    chosen = []
    for path in corpus_files(mr_real):
        ds = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SOPClassUID"])
        if str(ds.file_meta.TransferSyntaxUID) in UNCOMPRESSED and path.stat().st_size < 400_000:
            chosen.append(path)
    return chosen[:120]


class Sender:
    """Sends file after file, over a new association whenever the old one broke, until all are acknowledged."""

    def __init__(self, node: RunningNode, files: list[Path]) -> None:
        self.node = node
        self.waiting = list(files)
        self.acknowledged: list[Path] = []

    def run(self, after_each: Callable[[int], None]) -> None:
        metas = [pydicom.filereader.read_file_meta_info(path) for path in self.waiting]
        pairs = {(str(meta.MediaStorageSOPClassUID), str(meta.TransferSyntaxUID)) for meta in metas}
        contexts = [build_context(sop_class, syntax) for sop_class, syntax in sorted(pairs)]
        while self.waiting:
            ae = AE(ae_title="SENDER")
            ae.dimse_timeout = ae.network_timeout = ae.acse_timeout = 10
            port = wait_for(self.node.port_or_none, "the listener's port")
            assoc = ae.associate("127.0.0.1", port, contexts=contexts, ae_title="IAP_NODE")
            while assoc.is_established and self.waiting:
                try:
                    # not by path: pynetdicom can send the file meta's UID then, and GE files hold another one there
                    status = assoc.send_c_store(pydicom.dcmread(self.waiting[0]))
                except RuntimeError:  # the association went away under us
                    break
                if "Status" in status:
                    assert status.Status in {0x0000, OUT_OF_RESOURCES}, f"{status.Status:04X}H"
                    if status.Status == 0x0000:
                        self.acknowledged.append(self.waiting.pop(0))
                        after_each(len(self.acknowledged))
            if assoc.is_established:
                assoc.release()


def test_listener_killed_in_mid_association_loses_nothing_acknowledged(
    make_node: Callable[..., RunningNode], sent_files: list[Path]
) -> None:
    node = make_node(series={"quiet_period_s": 2.0})
    node.start()
    kills = {5, 17, 40, 41, 77}
    killers: list[threading.Thread] = []

    def kill_now_and_then(count: int) -> None:
        if count in kills:  # from another thread: the next store is already under way
            killers.append(threading.Thread(target=node.kill_role, args=("listen",)))
            killers[-1].start()
            if count % 2:  # sometimes wait, so that a kill also falls between two stores
                killers[-1].join()

    sender = Sender(node, sent_files)
    sender.run(kill_now_and_then)
    for killer in killers:
        killer.join()

    assert len(node.events("role ended")) >= len(kills) - 1  # 40 and 41 may hit the same process
    database = node.database()

    def rows_of_all() -> dict[str, InstanceRow] | None:
        with database.reading() as session:
            rows = {row.sop_instance_uid: row for row in session.scalars(select(InstanceRow))}
        return rows if len(rows) >= len(sender.acknowledged) else None

    rows = wait_for(rows_of_all, "the rows of what was acknowledged")
    spool = Spool(node.config.spool_dir)
    expected = {}
    for path in sender.acknowledged:
        ds = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SOPInstanceUID"])
        expected[str(ds.SOPInstanceUID)] = path
    assert set(rows) == set(expected)
    for uid, row in rows.items():
        with spool.locate(row.spool_path).open("rb") as file:
            stored = pydicom.dcmread(BytesIO(file.read()))
        assert stored.pixel_array.tobytes() == pydicom.dcmread(expected[uid]).pixel_array.tobytes()
    database.dispose()


def test_what_a_killed_listener_left_in_the_spool_is_put_in_order(
    make_node: Callable[..., RunningNode], sent_files: list[Path]
) -> None:
    node = make_node()
    node.start()
    sender = Sender(node, sent_files[:20])
    killer: list[threading.Thread] = []

    def kill_once(count: int) -> None:
        if count == 10:
            killer.append(threading.Thread(target=node.kill_role, args=("listen",)))
            killer[0].start()

    sender.run(kill_once)
    killer[0].join()
    node.close()
    database = node.database()
    spool = Spool(node.config.spool_dir)
    intake = Intake(spool, database, load_or_create_patient_key(node.config.patient_key_path))
    # at a real start it passes over files that another listener may be filing this very moment
    recover(spool, database, intake, settled_after_s=0.0)
    intake.close()
    with database.reading() as session:
        paths = set(session.scalars(select(InstanceRow.spool_path)))
    database.dispose()
    assert len(paths) == 20
    assert {str(path) for path in lying_in(spool)} == paths
    assert not list((spool.root / "segments" / "unsettled").iterdir())


def test_workers_killed_in_mid_job_finish_every_series_once(
    make_node: Callable[..., RunningNode], sent_files: list[Path]
) -> None:
    received: Counter[str] = Counter()
    ae = AE(ae_title="SINK")
    for path in sent_files:
        meta = pydicom.filereader.read_file_meta_info(path)
        ae.add_supported_context(str(meta.MediaStorageSOPClassUID), sorted(UNCOMPRESSED))

    gate = threading.Event()  # holds the first delivery until its worker has been killed

    def on_c_store(event: Event) -> int:
        gate.wait(60)
        received[str(event.request.AffectedSOPInstanceUID)] += 1
        return 0x0000

    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, on_c_store)])
    node = make_node(
        destinations={
            "sink": {"ae_title": "SINK", "host": "127.0.0.1", "port": server.socket.getsockname()[1]},
        },
        routing={"default": {"destinations": ["sink"]}},
    )
    try:
        node.start()
        kill_in_mid_job(node, sent_files, "infer", JobKind.INFER, kills=2)
        kill_in_mid_job(node, [], "deliver", JobKind.DELIVER, kills=1)
        gate.set()
        database = node.database()

        def all_done() -> bool:
            with database.reading() as session:
                jobs = session.scalars(select(JobRow)).all()
                inferred = {job.series_id for job in jobs if job.kind is JobKind.INFER}
                delivered = {job.series_id for job in jobs if job.kind is JobKind.DELIVER}
                return bool(jobs) and inferred == delivered and all(job.state is JobState.DONE for job in jobs)

        wait_for(all_done, "all jobs to be done")
        with database.reading() as session:
            for row in (PredictionRow, JudgementRow):
                per_revision = select(row.series_id).group_by(row.series_id, row.revision)
                assert session.scalars(per_revision.having(func.count() > 1)).all() == []
            instances = set(session.scalars(select(InstanceRow.sop_instance_uid)))
            accepted = session.scalar(select(func.count()).where(InstanceDeliveryRow.accepted))
        assert set(received) == instances
        assert accepted == len(instances)
        database.dispose()
    finally:
        gate.set()
        node.close()
        server.shutdown()


def kill_in_mid_job(node: RunningNode, files: list[Path], role: str, kind: JobKind, kills: int) -> None:
    """SIGKILL a role while it holds a lease, some times over; sends `files` first."""
    database = node.database()

    def holds_a_lease() -> bool:
        with database.reading() as session:
            leased = select(JobRow.id).where(JobRow.kind == kind, JobRow.state == JobState.LEASED)
            return session.scalars(leased.limit(1)).first() is not None

    if files:
        Sender(node, files).run(lambda count: None)

    def stopped_in_mid_job() -> bool:
        pid = node.role_pid(role)
        os.kill(pid, signal.SIGSTOP)  # so that the lease is surely held when the kill comes
        if holds_a_lease():
            return True
        os.kill(pid, signal.SIGCONT)
        return False

    for _ in range(kills):
        wait_for(stopped_in_mid_job, f"a leased {kind} job")
        node.kill_role(role)
    database.dispose()
