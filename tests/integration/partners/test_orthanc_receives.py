"""Orthanc as a C-STORE destination: what leaves us is there, once, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset

from iap_node.config import DestinationConfig
from iap_node.routing.destinations.dicom import echo, send_instances
from iap_node.routing.destinations.outgoing import OutgoingInstance
from tests.integration.partners.conftest import Orthanc, part10


def test_orthanc_takes_a_series_and_a_second_delivery_changes_nothing(
    orthanc: Orthanc, make_series: Callable[..., list[Dataset]], tmp_path: Path
) -> None:
    config = DestinationConfig(ae_title="ORTHANC", host="127.0.0.1", port=orthanc.dicom_port)
    echo(config)
    series = make_series("1.2.826.20", 3)
    outgoing = []
    for number, ds in enumerate(series):
        path = tmp_path / f"{number}.dcm"
        path.write_bytes(part10(ds))
        syntax = str(ds.file_meta.TransferSyntaxUID)
        outgoing.append(OutgoingInstance(number, str(ds.SOPClassUID), str(ds.SOPInstanceUID), syntax, path))
    for _ in range(2):
        assert all(answer.accepted for answer in send_instances(outgoing, config))
    query = {"Level": "Instance", "Query": {"SeriesInstanceUID": "1.2.826.20.1"}}
    found = orthanc.ask("POST", "/tools/find", query)
    assert len(found) == 3
    kept = [pydicom.dcmread(BytesIO(orthanc.ask("GET", f"/instances/{one}/file"))) for one in found]
    assert {ds.SOPInstanceUID: ds.PixelData for ds in kept} == {ds.SOPInstanceUID: ds.PixelData for ds in series}
