"""odil as a C-STORE destination, GDCM and odil as readers: what the node writes is understood by others.

Copies, originals and SR documents, each decoded by an implementation that shares nothing with ours.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from iap_node.config import DestinationConfig
from iap_node.database.engine import Database
from iap_node.records import JobKind, JobState
from iap_node.routing.destinations.dicom import echo, send_instances
from tests.integration.partners.conftest import free_port
from tests.integration.worker.conftest import wait_for
from tests.integration.worker.test_deliver_corrected import accept, deliver

STORESCP = Path(__file__).parent.parent / "partners" / "odil_storescp.py"
DEBIAN_PYTHON = "/usr/bin/python3"  # whose packages python3-odil is one of
COMPREHENSIVE_SR = "1.2.840.10008.5.1.4.1.1.88.33"


@pytest.fixture
def database(migrated_sqlite: Path, tmp_path: Path) -> Iterator[Database]:
    """SQLite alone: no query here is new."""
    path = tmp_path / "node.sqlite"
    shutil.copyfile(migrated_sqlite, path)
    opened = Database(f"sqlite:///{path}")
    yield opened
    opened.dispose()


@pytest.fixture
def odil_storescp(tmp_path: Path) -> Iterator[tuple[int, Callable[[], list[dict[str, Any]]]]]:
    """The port of a C-STORE SCP made of odil, and what it has decoded."""
    if not Path(DEBIAN_PYTHON).exists() or subprocess.run([DEBIAN_PYTHON, "-c", "import odil"], check=False).returncode:
        pytest.skip("odil is not installed; apt-get install python3-odil")
    port, log = free_port(), tmp_path / "odil.log"
    with log.open("wb") as stream:
        process = subprocess.Popen([DEBIAN_PYTHON, str(STORESCP), str(port)], stdout=stream, stderr=stream)

    def decoded() -> list[dict[str, Any]]:
        return [json.loads(line) for line in log.read_text().splitlines()]

    def answers() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            echo(peer(port))
        except Exception:  # noqa: BLE001 - it has not started yet
            return False
        return True

    wait_for(answers, "odil's listener")
    yield port, decoded
    process.kill()
    process.wait()


def peer(port: int) -> DestinationConfig:
    return DestinationConfig(ae_title="ODIL", host="127.0.0.1", port=port, timeout_s=10)


def test_odil_decodes_what_is_delivered_in_each_form(
    odil_storescp: Any, make_node: Callable[..., Any], scripted: Any, write_instance: Any
) -> None:
    port, decoded = odil_storescp
    syntaxes = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless)
    as_they_came = [write_instance(transfer_syntax_uid=syntax, SeriesInstanceUID="1.2.9") for syntax in syntaxes]
    assert [one.status for one in send_instances(as_they_came, peer(port))] == [0] * len(syntaxes)
    there = {"ae_title": "ODIL", "host": "127.0.0.1", "port": port, "send": "corrected", "results": True}
    node = make_node(destinations={"lesions": there, "people": there})
    node.complete([write_instance(PatientBirthDate="19700101", PatientSex="O") for _ in range(2)])
    node.infer(scripted())
    accept(node)
    assert deliver(node)
    assert (node.job(JobKind.DELIVER).state, node.job(JobKind.DELIVER).error) == (JobState.DONE, None)
    originals, copies, documents = decoded()[:4], decoded()[4:6], decoded()[6:]
    assert [one["sop_instance_uid"] for one in originals] == [one.sop_instance_uid for one in as_they_came]
    uncompressed = hashlib.sha256(bytes(index % 251 for index in range(2 * 64 * 64))).hexdigest()
    assert [one["pixels"] for one in originals[:2]] == [uncompressed] * 2
    assert [(one["echo_time_ms"], one["pixels"]) for one in copies] == [(21.0, uncompressed)] * 2
    assert {one["sop_instance_uid"] for one in copies}.isdisjoint(node.instance_ids())
    (document,) = documents
    assert (document["modality"], document["n_elements"] > 20) == ("SR", True)


def test_gdcm_and_odil_read_the_files_that_are_written(
    make_node: Callable[..., Any],
    scripted: Any,
    write_instance: Any,
    tmp_path: Path,
    program: Callable[[str, str], str],
) -> None:
    gdcmdump, gdcminfo, gdcmraw = (program(name, "libgdcm-tools") for name in ("gdcmdump", "gdcminfo", "gdcmraw"))
    odil = program("odil", "odil")
    target = tmp_path / "out"
    target.mkdir()
    folder = {"kind": "folder", "path": target, "template": "{SOPInstanceUID}.dcm"}
    folder |= {"send": "corrected", "results": True}
    node = make_node(destinations={"lesions": folder, "people": folder})
    node.complete([write_instance(transfer_syntax_uid=syntax) for syntax in (ImplicitVRLittleEndian, RLELossless)])
    node.infer(scripted())
    accept(node)
    assert deliver(node)
    read = {path: dcmread(path) for path in target.iterdir()}
    assert sorted(ds.Modality for ds in read.values()) == ["MR", "MR", "SR"]

    def said(*command: str) -> str:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout + done.stderr

    for path, ds in read.items():
        dumped = said(gdcmdump, str(path))
        assert ds.SOPInstanceUID in dumped and "Error" not in dumped
        printed = said(odil, "print", str(path))
        assert str(ds.SOPInstanceUID) in printed and str(ds.SeriesInstanceUID) in printed
        if ds.SOPClassUID == COMPREHENSIVE_SR:
            assert "(0040,a730)" in dumped.lower()  # Content Sequence
            continue
        assert "[21" in line_of(dumped, "(0018,0081)") and "[21" in line_of(printed, "0018,0081")
        assert str(ds.file_meta.TransferSyntaxUID) in said(gdcminfo, str(path))
        said(gdcmraw, "-i", str(path), "-t", "7fe0,0010", "-o", str(tmp_path / "pixels"))
        pixels = (tmp_path / "pixels").read_bytes()
        assert len(pixels) == 2 * 64 * 64 and pixels in ds.PixelData  # of RLE: one fragment, as it was received


def line_of(text: str, tag: str) -> str:
    return next(line for line in text.splitlines() if tag in line)
