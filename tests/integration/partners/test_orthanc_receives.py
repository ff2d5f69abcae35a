"""Orthanc as a C-STORE and as a DICOMweb destination: what leaves us is there, once, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset

from iap_node.config.destinations import DestinationConfig, DicomwebConfig
from iap_node.routing.destinations.destination import Destination, open_destination
from iap_node.routing.destinations.outgoing import OutgoingInstance
from tests.integration.partners.conftest import DICOMWEB_PLUGIN, Orthanc, part10


@pytest.fixture(params=["dicom", "dicomweb"])
def destination(request: pytest.FixtureRequest, orthanc: Orthanc) -> tuple[str, Destination]:
    """A root for UIDs, and Orthanc by one protocol."""
    if request.param == "dicom":
        config = DestinationConfig(ae_title="ORTHANC", host="127.0.0.1", port=orthanc.dicom_port)
        return "1.2.826.20", open_destination(config)
    if not DICOMWEB_PLUGIN.exists():
        pytest.skip("Orthanc's DICOMweb plugin is not installed; apt-get install orthanc-dicomweb")
    url = f"http://127.0.0.1:{orthanc.http_port}/dicom-web"
    return "1.2.826.21", open_destination(DicomwebConfig(kind="dicomweb", url=url, instances_per_request=2))


def test_orthanc_takes_a_series_and_a_second_delivery_changes_nothing(
    destination: tuple[str, Destination],
    orthanc: Orthanc,
    make_series: Callable[..., list[Dataset]],
    tmp_path: Path,
) -> None:
    root, there = destination
    there.echo()
    series = make_series(root, 3)
    outgoing = []
    for number, ds in enumerate(series):
        path = tmp_path / f"{number}.dcm"
        path.write_bytes(part10(ds))
        syntax = str(ds.file_meta.TransferSyntaxUID)
        outgoing.append(OutgoingInstance(number, str(ds.SOPClassUID), str(ds.SOPInstanceUID), syntax, path))
    for _ in range(2):
        answers = there.send(outgoing)
        assert [(answer.accepted, answer.status) for answer in answers] == [(True, 0)] * 3, answers
    query = {"Level": "Instance", "Query": {"SeriesInstanceUID": f"{root}.1"}}
    found = orthanc.ask("POST", "/tools/find", query)
    assert len(found) == 3
    kept = [pydicom.dcmread(BytesIO(orthanc.ask("GET", f"/instances/{one}/file"))) for one in found]
    assert {ds.SOPInstanceUID: ds.PixelData for ds in kept} == {ds.SOPInstanceUID: ds.PixelData for ds in series}
