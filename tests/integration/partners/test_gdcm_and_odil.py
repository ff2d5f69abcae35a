"""GDCM and odil as senders: implementations of their own, beside DCMTK, Orthanc and pynetdicom.

As a destination and as readers of what the node writes: tests/integration/worker/test_others_receive.py.

gdcmscu of Debian 12 (3.0.21) aborts once its association is released, whoever the peer is, DCMTK's storescp included:
its exit status says nothing, and what it prints of answers to C-FIND never comes out. The archive says what came.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)
from structlog.testing import capture_logs

from iap_node.database.tables import InstanceRow
from tests.integration.listener.conftest import Node, encode, make_instance, wait_for
from tests.integration.partners.conftest import part10

pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)

LITTLE_ENDIAN = (ImplicitVRLittleEndian, ExplicitVRLittleEndian)
SYNTAXES = (
    *LITTLE_ENDIAN, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian, JPEGBaseline8Bit, JPEGLosslessSV1,
    JPEGLSLossless, JPEG2000Lossless, RLELossless,
)  # fmt: skip
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def gdcmscu(program: Callable[[str, str], str]) -> Run:
    """Runs it towards a port; its exit status is not looked at (see above)."""
    path = program("gdcmscu", "libgdcm-tools")

    def run(port: int, *arguments: str) -> subprocess.CompletedProcess[str]:
        peer = ("127.0.0.1", str(port), "--call", "IAP_NODE", "--aetitle", "GDCM")
        return subprocess.run([path, *peer, *arguments], capture_output=True, text=True, timeout=60, check=False)

    return run


@pytest.fixture
def odil(program: Callable[[str, str], str]) -> Run:
    """Runs one of its commands towards a port; it must succeed."""
    path = program("odil", "odil")

    def run(command: str, port: int, *arguments: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [path, command, "127.0.0.1", str(port), "ODIL", "IAP_NODE", *arguments],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done

    return run


def instance(number: int, syntax: str) -> Dataset:
    """An image in a transfer syntax; nobody here decodes its pixels."""
    ds = make_instance(InstanceNumber=number, SOPInstanceUID=f"1.2.840.99.1.1.{number}", SeriesDescription="t1 gdcm")
    uid = UID(syntax)
    ds.file_meta.TransferSyntaxUID = uid
    if uid.is_compressed and not uid.is_deflated:
        ds.PixelData = encapsulate([bytes(range(32))])
        ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
    return ds


def ended(events: list[dict[str, object]]) -> list[dict[str, object]]:
    return [event for event in events if event["event"] == "association ended"]


def test_gdcmscu_is_answered_and_stores_every_transfer_syntax_as_it_is(
    node: Node, gdcmscu: Run, tmp_path: Path
) -> None:
    sent = {ds.SOPInstanceUID: ds for ds in (instance(number, syntax) for number, syntax in enumerate(SYNTAXES, 1))}
    with capture_logs() as events:
        gdcmscu(node.port, "--echo")
        for uid, ds in sent.items():
            (tmp_path / uid).write_bytes(part10(ds))
            gdcmscu(node.port, "--store", "-i", str(tmp_path / uid))
        wait_for(lambda: len(ended(events)) == 1 + len(sent), "the end of all associations")
    assert {event["how"] for event in ended(events)} == {"released"}
    assert sum(int(str(event["n_accepted"])) for event in ended(events)) == len(sent)
    kept = {row.sop_instance_uid: dcmread(BytesIO(node.content(row.spool_path))) for row in node.rows(InstanceRow)}
    assert {uid: ds.file_meta.TransferSyntaxUID for uid, ds in kept.items()} == {
        uid: ds.file_meta.TransferSyntaxUID for uid, ds in sent.items()
    }
    for uid, ds in kept.items():  # element by element: GDCM writes lengths and deflated data sets its own way
        assert [(one.keyword, one.value) for one in ds] == [(one.keyword, one.value) for one in sent[uid]]


def test_gdcmscu_asks_for_series_and_is_answered(node: Node, gdcmscu: Run, connect: Callable[..., object]) -> None:
    sender = connect(node.port)
    assert sender.store_instance(make_instance()).Status == 0x0000  # type: ignore[attr-defined]
    keys = ("--key", "20,d=1.2.840.99.1", "--key", "20,e", "--key", "8,60")
    with capture_logs() as events:
        gdcmscu(node.port, "--find", "--studyroot", "--series", *keys)
        wait_for(lambda: ended(events), "the end of the association")
    (query,) = [event for event in events if event["event"] == "query"]
    assert (query["n_matches"], query["ending"], ended(events)[0]["how"]) == (1, "done", "released")


def test_odil_is_answered_stores_and_finds_what_it_stored(node: Node, odil: Run, tmp_path: Path) -> None:
    odil("echo", node.port)
    sent = []
    for number, syntax in enumerate(LITTLE_ENDIAN, 1):  # what it makes of the others is none of them
        sent.append(instance(number, syntax))
        path = tmp_path / f"{number}.dcm"
        path.write_bytes(part10(sent[-1]))
        odil("store", node.port, str(path))
    assert {row.sop_instance_uid for row in node.rows(InstanceRow)} == {ds.SOPInstanceUID for ds in sent}
    for ds in sent:  # odil writes data sets anew, all in Explicit VR Little Endian
        assert node.stored_dataset(ds.SOPInstanceUID) == (ExplicitVRLittleEndian, encode(ds))
    keys = ("QueryRetrieveLevel=SERIES", "StudyInstanceUID=1.2.840.99.1", "SeriesInstanceUID", "SeriesDescription")
    found = odil("find", node.port, "study", *keys).stdout
    assert "1 answer" in found and "['1.2.840.99.1.1']" in found and "['t1 gdcm']" in found
