"""Data sets that are broken, or meant to break what reads them: each one answered, and filed or in the quarantine."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from iap_node.database.tables import InstanceRow, QuarantineRow
from tests.integration.listener.broken import STORED, Broken, broken_data_sets
from tests.integration.listener.conftest import Node, wait_for
from tests.integration.listener.hostile import Footprint
from tests.integration.listener.test_hostile_peers import Bystander, Listening, listening  # noqa: F401  # a fixture
from tests.integration.listener.wire import COMMAND, DATA, RawSender, items, pdu, store_request

MAX_GROWTH_MIB = 60


@pytest.fixture(scope="module")
def data_sets() -> list[Broken]:
    """Made once: the bombs take a second."""
    return broken_data_sets()


def send(port: int, broken: Broken) -> tuple[int, str]:
    """Status and Error Comment."""
    with RawSender(port, transfer_syntax_uid=broken.transfer_syntax_uid) as sender:
        sender.send(*(pdu(one) for one in items(COMMAND, store_request(broken.sop_instance_uid), 16_000)))
        sender.send(*(pdu(one) for one in items(DATA, broken.dataset, 16_000)))
        response = sender.read_response()
        sender.release()
    return response.Status, response.get("ErrorComment", "")


def test_broken_data_sets_are_answered_and_filed_or_quarantined_with_their_reason(
    node: Node, data_sets: list[Broken]
) -> None:
    quarantined = {}
    for broken in data_sets:
        status, comment = send(node.port, broken)
        assert status == broken.status, f"{broken.what}: {comment}"
        if status == STORED:
            wait_for(lambda uid=broken.sop_instance_uid: is_filed(node, uid), f"the row of {broken.what}")
            assert node.stored_dataset(broken.sop_instance_uid) == (broken.transfer_syntax_uid, broken.dataset)
        else:
            assert comment.startswith("Quarantined: "), broken.what
            (row,) = [row for row in node.rows(QuarantineRow) if row.spool_path not in quarantined]
            quarantined[row.spool_path] = broken.what
            assert broken.reason in row.reason, broken.what
            assert len(row.reason) < 400, broken.what
            path = node.spool.path(row.spool_path)
            assert path.read_bytes().endswith(broken.dataset), broken.what
            assert json.loads(path.with_suffix(".json").read_text())["reason"] == row.reason
    assert all(len(part) < 100 for path in node.files() for part in path.parts)
    assert not [path for path in node.files() if path.parts[0] == "incoming"]


def is_filed(node: Node, sop_instance_uid: str) -> bool:
    return any(row.sop_instance_uid == sop_instance_uid for row in node.rows(InstanceRow))


def test_broken_data_sets_cost_a_listener_no_memory_and_disturb_nobody(
    listening: Callable[..., Listening],  # noqa: F811
    data_sets: list[Broken],
) -> None:
    listener = listening()
    files = listener.files_outside()
    bystander = Bystander(listener.port)
    before = Footprint.of(listener.pid)
    for n, broken in enumerate(data_sets):
        assert send(listener.port, broken)[0] == broken.status, broken.what
        if n % 10 == 0:
            bystander.works()
    peak = Footprint.peak_mib(listener.pid)
    print(f"{len(data_sets)} data sets: {before.resident_mib:.0f} MiB, at most {peak:.0f} MiB")
    assert peak < before.resident_mib + MAX_GROWTH_MIB
    assert listener.files_outside() == files
    bystander.leave()
    assert "Traceback" not in listener.stop()
