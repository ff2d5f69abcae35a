"""DCMTK as the sender: another implementation than ours at the other end."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import numpy
import pydicom
import pytest

from iap_node.database.engine import Database
from iap_node.database.tables import InstanceRow
from tests.integration.listener.conftest import Node, wait_for

MIXED = "siemens_trio_b17_same_image_9_transfer_syntaxes"


@pytest.fixture
def database(migrated_sqlite: Path, tmp_path: Path) -> Iterator[Database]:
    """Nothing here depends on which database it is."""
    path = tmp_path / "node.sqlite"
    shutil.copyfile(migrated_sqlite, path)
    opened = Database(f"sqlite:///{path}")
    yield opened
    opened.dispose()


def run(*command: str) -> subprocess.CompletedProcess[str]:
    # DCMTK leaves Nagle's algorithm on unless told otherwise; with our TCP_NODELAY at the other end either
    # works.
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"TCP_NODELAY": "1"},
    )


def test_echoscu_is_answered(node: Node, program: Callable[[str, str], str]) -> None:
    done = run(program("echoscu", "dcmtk"), "-v", "-aec", "IAP_NODE", "127.0.0.1", str(node.port))
    assert done.returncode == 0, done.stderr
    assert "Received Echo Response (Success)" in done.stdout + done.stderr


def test_echoscu_is_told_that_its_title_is_unknown(
    make_node: Callable[..., Node], program: Callable[[str, str], str]
) -> None:
    node = make_node(calling_ae_titles=["SCANNER"])
    done = run(program("echoscu", "dcmtk"), "-aet", "STRANGER", "127.0.0.1", str(node.port))
    assert done.returncode != 0
    assert "Calling AE Title Not Recognized" in done.stdout + done.stderr


def test_dcmsend_delivers_compressed_instances_without_converting_them(
    node: Node, program: Callable[[str, str], str], mr_real: Path
) -> None:
    folder = mr_real / MIXED
    done = run(
        program("dcmsend", "dcmtk"), "-v", "-aec", "IAP_NODE", "--decompress-never", "+ma", "+sd",
        "127.0.0.1", str(node.port), str(folder),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    sent = {}
    for path in folder.glob("*.dcm"):
        ds = pydicom.dcmread(path)
        sent[str(ds.SOPInstanceUID)] = ds
    rows = node.rows(InstanceRow)
    assert {row.sop_instance_uid for row in rows} == set(sent)
    for row in rows:
        as_sent, filed = sent[row.sop_instance_uid], pydicom.dcmread(BytesIO(node.content(row.spool_path)))
        assert filed.file_meta.TransferSyntaxUID == row.transfer_syntax_uid
        if as_sent.file_meta.TransferSyntaxUID.is_compressed:
            assert row.transfer_syntax_uid == as_sent.file_meta.TransferSyntaxUID
            assert filed.PixelData == as_sent.PixelData
        else:  # dcmsend itself makes all uncompressed ones Explicit VR Little Endian
            assert numpy.array_equal(filed.pixel_array, as_sent.pixel_array)


def test_storescu_delivers_an_enhanced_instance_whole(
    node: Node, program: Callable[[str, str], str], mr_real: Path
) -> None:
    enhanced = "1.2.840.10008.5.1.4.1.1.4.1"
    paths = sorted(mr_real.rglob("*.dcm"), key=lambda path: path.stat().st_size)
    path = next(p for p in paths if pydicom.dcmread(p, specific_tags=["SOPClassUID"]).SOPClassUID == enhanced)
    done = run(program("storescu", "dcmtk"), "-v", "-aec", "IAP_NODE", "127.0.0.1", str(node.port), str(path))
    assert done.returncode == 0, done.stderr
    (row,) = node.rows(InstanceRow)
    assert pydicom.dcmread(BytesIO(node.content(row.spool_path))).PixelData == pydicom.dcmread(path).PixelData


def test_storescu_shows_the_comment_of_a_failure(
    node: Node, program: Callable[[str, str], str], mr_real: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    path = min((mr_real / MIXED).glob("*.dcm"))
    monkeypatch.setattr(os, "fsync", full)
    done = run(program("storescu", "dcmtk"), "-d", "-aec", "IAP_NODE", "127.0.0.1", str(node.port), str(path))
    monkeypatch.undo()
    shown = done.stdout + done.stderr
    assert "0xa700" in shown.lower()
    assert "send again later" in shown
    wait_for(lambda: node.scp.open_associations == 0, "the end of the association")
    assert node.nothing_is_left()
