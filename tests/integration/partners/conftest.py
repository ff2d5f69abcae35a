"""Real partners on this machine: Orthanc and DCMTK's archive, each with a database of its own, on free ports."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.filewriter import dcmwrite

from tests.integration.listener.conftest import certificates, connect, make_instance, make_node, node

__all__ = ["certificates", "connect", "make_node", "node"]

WAIT_S = 60.0
DICOMWEB_PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@dataclass(frozen=True)
class Orthanc:
    """An Orthanc of the test run's own, driven by its REST API."""

    http_port: int
    dicom_port: int

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """JSON in, JSON out; bytes go as they are."""
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.http_port}{path}", data=data, method=method)
        with urllib.request.urlopen(request, timeout=WAIT_S) as answer:
            content = answer.read()
        return json.loads(content) if content[:1] in (b"{", b"[") else content

    def knows(self, ae_title: str, port: int) -> str:
        """Tell it of a node; the name by which it calls it."""
        settings = {"AET": ae_title, "Host": "127.0.0.1", "Port": port, "AllowStorageCommitment": True}
        self.ask("PUT", "/modalities/node", settings)
        return "node"

    def upload(self, ds: Dataset) -> str:
        """Give it an instance; its identifier there."""
        return str(self.ask("POST", "/instances", part10(ds))["ID"])


def part10(ds: Dataset) -> bytes:
    """A data set as a DICOM file."""
    buffer = BytesIO()
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    dcmwrite(buffer, ds, enforce_file_format=True)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def orthanc() -> Iterator[Orthanc]:
    """A running Orthanc, empty at first; tests keep apart by their UIDs."""
    program = shutil.which("Orthanc") or shutil.which("Orthanc", path="/usr/sbin")
    if program is None:
        pytest.skip("Orthanc is not installed; apt-get install orthanc")
    with tempfile.TemporaryDirectory(prefix="iap-orthanc-") as name:
        folder = Path(name)
        server = Orthanc(free_port(), free_port())
        settings = {
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "storage"),
            "DicomAet": "ORTHANC",
            "DicomPort": server.dicom_port,
            "DicomCheckCalledAet": False,
            "DicomAlwaysAllowFind": True,
            "DicomAlwaysAllowMove": True,
            "DicomAlwaysAllowGet": True,
            "HttpPort": server.http_port,
            "RemoteAccessAllowed": False,
            "Plugins": [str(DICOMWEB_PLUGIN)] if DICOMWEB_PLUGIN.exists() else [],
        }
        (folder / "orthanc.json").write_text(json.dumps(settings))
        log = folder / "log"
        with log.open("wb") as stream:
            process = subprocess.Popen([program, str(folder / "orthanc.json")], stdout=stream, stderr=stream)
        try:
            deadline = time.monotonic() + WAIT_S
            while not _answers(server):
                assert process.poll() is None and time.monotonic() < deadline, log.read_text()
                time.sleep(0.05)
            yield server
        finally:
            process.kill()
            process.wait()


def _answers(server: Orthanc) -> bool:
    try:
        server.ask("GET", "/system")
    except (OSError, urllib.error.URLError):
        return False
    return is_listening(server.dicom_port)


@pytest.fixture
def make_series() -> Callable[..., list[Dataset]]:
    """Factory of series: `make_series("1.2.3", 5, Modality="MR")`, UIDs below the given root."""

    def make(root: str, n_instances: int = 3, **changes: Any) -> list[Dataset]:
        return [
            make_instance(
                StudyInstanceUID=root, SeriesInstanceUID=changes.get("SeriesInstanceUID", f"{root}.1"),
                SOPInstanceUID=f"{changes.get('SeriesInstanceUID', f'{root}.1')}.{number}", InstanceNumber=number,
                **{key: value for key, value in changes.items() if key != "SeriesInstanceUID"},
            )
            for number in range(1, n_instances + 1)
        ]  # fmt: skip

    return make
