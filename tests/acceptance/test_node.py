"""The whole node on both databases: received, judged, routed, delivered; late instances; a clean stop."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pynetdicom import AE, evt
from pynetdicom.events import Event
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import MRImageStorage

from tests.acceptance.conftest import RunningNode, wait_for
from training.simulation.dicom_series import write_series
from training.simulation.series import simulate_series

ENCODING = "1.2.840.10008.1.2.1"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_settings(request: pytest.FixtureRequest) -> dict[str, str | None]:
    if request.param == "sqlite":
        return {"url": None}
    server = request.getfixturevalue("postgresql")
    return {"url": server.create_database()}


def send(port: int, files: list[Path]) -> list[int]:
    """C-STORE files over one association; the statuses."""
    ae = AE(ae_title="MR_SCANNER")
    assoc = ae.associate("127.0.0.1", port, contexts=[build_context(MRImageStorage, ENCODING)], ae_title="IAP_NODE")
    assert assoc.is_established
    statuses = [int(assoc.send_c_store(pydicom.dcmread(path)).Status) for path in files]
    assoc.release()
    return statuses


def one_series(node: RunningNode) -> dict[str, Any]:
    (series,) = node.series()
    return series


def settled(node: RunningNode, revision: int) -> dict[str, Any] | None:
    """The only series, once its revision is judged and delivered."""
    found = node.series()
    if len(found) != 1 or found[0]["judged_revision"] != revision:
        return None
    return found[0] if all(one["state"] == "delivered" for one in found[0]["deliveries"]) else None


def test_a_series_is_received_judged_routed_and_delivered_and_a_late_instance_judged_again(
    make_node: Callable[..., RunningNode], database_settings: dict[str, str | None], tmp_path: Path
) -> None:
    received: list[str] = []

    def on_c_store(event: Event) -> int:
        received.append(str(event.request.AffectedSOPInstanceUID))
        return 0x0000

    ae = AE(ae_title="SINK")
    ae.add_supported_context(MRImageStorage, [ENCODING])
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, on_c_store)])
    port = server.socket.getsockname()[1]
    node = make_node(
        database=database_settings,
        series={"complete_on_release": True},
        destinations={"sink": {"ae_title": "SINK", "host": "127.0.0.1", "port": port}},
        routing={"default": {"destinations": ["sink"]}},
    )
    rng = np.random.default_rng(11)
    files = write_series(simulate_series(rng, 5, slice_positions="even"), tmp_path / "series", rng=rng)
    uids = [str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID) for path in files]
    try:
        node.start()
        assert send(node.port, files[:4]) == [0x0000] * 4
        series = wait_for(lambda: settled(node, 1), "the first revision to be delivered")
        assert series["n_instances"] == 4 and sorted(received) == sorted(uids[:4])

        assert send(node.port, files[:4]) == [0x0000] * 4  # the same again changes nothing
        assert one_series(node)["revision"] == 1

        assert send(node.port, files[4:]) == [0x0000]
        wait_for(lambda: settled(node, 2), "the second revision to be delivered")
        assert sorted(received) == sorted(uids)  # what the destination has is not sent again

        shown = node.json("show", series["series_instance_uid"])
        assert shown["judgement"]["prediction"]["training_data"] == "trained on simulated images"
        assert len(shown["judgement"]["comparisons"]) == 12
        assert shown["judgement"]["decision"]["reason"]
        assert shown["findings"] == node.json("findings", "--any-state", "--limit", "1000")
        for command in (
            ("show", series["series_instance_uid"][-8:]),
            ("series",),
            ("routes",),
        ):
            assert "trained on simulated images" in node.command(*command).stdout
        assert node.stop() == 0
        assert "SIMULATED^" not in node.log_path.read_text()  # no patient identity in logs
        assert "SIM0001" not in node.log_path.read_text()
    finally:
        node.close()
        server.shutdown()


def test_what_a_destination_does_not_take_becomes_a_dead_letter_that_can_be_requeued(
    make_node: Callable[..., RunningNode], tmp_path: Path
) -> None:
    received: list[str] = []
    refuse = threading.Event()
    refuse.set()

    def on_c_store(event: Event) -> int:
        if refuse.is_set():
            return 0xA700  # Out of Resources
        received.append(str(event.request.AffectedSOPInstanceUID))
        return 0x0000

    ae = AE(ae_title="SINK")
    ae.add_supported_context(MRImageStorage, [ENCODING])
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, on_c_store)])
    port = server.socket.getsockname()[1]
    node = make_node(
        jobs={"max_attempts": 2},
        series={"complete_on_release": True},
        destinations={"sink": {"ae_title": "SINK", "host": "127.0.0.1", "port": port}},
        routing={"default": {"destinations": ["sink"]}},
    )
    rng = np.random.default_rng(12)
    files = write_series(simulate_series(rng, 2, slice_positions="even"), tmp_path / "series", rng=rng)
    try:
        node.start()
        send(node.port, files)
        (letter,) = wait_for(lambda: node.json("jobs", "--state", "dead"), "the dead letter")
        assert letter["destination"] == "sink" and letter["attempts"] == 2 and "A700" in letter["error"]
        assert node.command("status", "--check").returncode == 5
        shown = node.json("show", one_series(node)["series_instance_uid"])
        assert [(answer["accepted"], answer["status"]) for answer in shown["answers"]] == [(False, 0xA700)] * 2

        refuse.clear()
        assert node.json("retry", str(letter["id"])) == {"requeued": 1}
        wait_for(lambda: settled(node, 1), "the series to be delivered")
        assert len(received) == 2
        assert node.json("jobs", "--state", "dead") == []
        assert node.command("status", "--check").returncode == 0
    finally:
        node.close()
        server.shutdown()


def test_a_crashed_role_is_started_again(make_node: Callable[..., RunningNode]) -> None:
    node = make_node()
    node.start()
    for role in ("infer", "deliver", "schedule"):
        node.kill_role(role)
    assert {event["role"] for event in node.events("role ended")} == {"infer", "deliver", "schedule"}
    assert node.stop() == 0


def test_roles_stop_by_themselves_when_their_supervisor_is_killed(make_node: Callable[..., RunningNode]) -> None:
    node = make_node()
    node.start()
    pids = [node.role_pid(role) for role in ("listen", "infer", "deliver", "schedule")]
    node.kill()
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "the orphaned roles to end")
