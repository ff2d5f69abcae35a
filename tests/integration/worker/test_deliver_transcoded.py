"""DELIVER jobs to a peer that takes nothing compressed: what failed is sent again, and the archive's bytes stay."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from pydicom.encaps import encapsulate
from pydicom.filereader import read_dataset
from pydicom.uid import ExplicitVRLittleEndian, JPEGLSLossless
from pynetdicom import evt

from iap_node.database.engine import Database
from iap_node.records import JobKind, JobState
from iap_node.worker.deliver import DeliverHandler
from iap_node.worker.loop import run_once


@pytest.fixture
def database(migrated_sqlite: Path, tmp_path: Path) -> Iterator[Database]:
    path = tmp_path / "node.sqlite"
    shutil.copyfile(migrated_sqlite, path)
    opened = Database(f"sqlite:///{path}")
    yield opened
    opened.dispose()


@pytest.fixture
def routed(make_node: Callable[..., Any], write_instance: Any, scripted: Any) -> Callable[..., Any]:
    """Factory: a node with a series of three JPEG-LS images for a peer, and their pixels."""

    def make(port: int, **sections: Any) -> Any:
        peer = {"ae_title": "PEER", "host": "127.0.0.1", "port": port, "timeout_s": 5}
        node = make_node(destinations={"lesions": peer, "people": peer}, **sections)
        images = np.random.default_rng(1).integers(0, 4096, (3, 64, 64)).astype("<u2")
        node.complete([
            write_instance(transfer_syntax_uid=JPEGLSLossless, PixelData=encapsulate([imagecodecs.jpegls_encode(one)]))
            for one in images
        ])  # fmt: skip
        node.infer(scripted())
        return node, images

    return make


def deliver(node: Any) -> bool:
    handler = DeliverHandler(node.database, node.spool, node.config)
    return run_once(JobKind.DELIVER, handler, node.database, node.config.jobs, "test:deliver")


def test_only_what_failed_is_decompressed_and_sent_again(start_peer: Any, routed: Any, wait_for: Any) -> None:
    def answer(_: evt.Event) -> int:
        return 0xA700 if len(peer.received) == 2 else 0x0000

    peer = start_peer(answer=answer, transfer_syntaxes=[ExplicitVRLittleEndian])
    node, images = routed(peer.port)
    stored = {uid: node.spool_file(uid).read_bytes() for uid in node.instance_ids()}

    def over() -> bool:
        deliver(node)
        return node.job(JobKind.DELIVER).state is JobState.DONE

    wait_for(over, "the end of the job")
    assert len(peer.received) == 4
    assert peer.received[3] == peer.received[1]
    assert set(peer.uids()) == set(node.instance_ids())
    came = {uid: read_dataset(BytesIO(content), False, True).PixelData for uid, _, content in peer.received}
    assert sorted(came.values()) == sorted(one.tobytes() for one in images)
    assert {uid: node.spool_file(uid).read_bytes() for uid in node.instance_ids()} == stored


def test_the_limit_of_the_configuration_holds_for_what_is_decompressed(start_peer: Any, routed: Any) -> None:
    peer = start_peer(transfer_syntaxes=[ExplicitVRLittleEndian])
    node, _ = routed(peer.port, inference={"max_bytes_per_instance": 8191})
    deliver(node)
    job = node.job(JobKind.DELIVER)
    assert job.state is JobState.DEAD
    assert "max_bytes_per_instance = 8191" in (job.error or "")
    assert peer.received == []
