"""Orthanc as the sender: C-STORE, then storage commitment, whose report it takes on an association of ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pydicom.dataset import Dataset

from iap_node.database.tables import InstanceRow
from tests.integration.listener.conftest import Node, wait_for
from tests.integration.partners.conftest import Orthanc

pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


def test_orthanc_sends_a_series_and_is_told_what_is_committed(
    orthanc: Orthanc, make_node: Callable[..., Node], make_series: Callable[..., list[Dataset]]
) -> None:
    requestors = {"ORTHANC": {"host": "127.0.0.1", "port": orthanc.dicom_port}}
    node = make_node(storage_commitment={"requestors": requestors, "patience_s": 0, "same_association": False})
    name = orthanc.knows("IAP_NODE", node.port)
    series = make_series("1.2.826.99.1", 3)
    ids = [orthanc.upload(ds) for ds in series]
    orthanc.ask("POST", f"/modalities/{name}/store", ids[:2])
    assert len(node.rows(InstanceRow)) == 2
    sent = {"DicomInstances": [[ds.SOPClassUID, ds.SOPInstanceUID] for ds in series[:2]]}
    assert _outcome(orthanc, name, sent)["Status"] == "Success"
    all_of_it = {"DicomInstances": [[ds.SOPClassUID, ds.SOPInstanceUID] for ds in series]}
    outcome = _outcome(orthanc, name, all_of_it)
    assert outcome["Status"] == "Failure"
    assert [item["SOPInstanceUID"] for item in outcome["Success"]] == [ds.SOPInstanceUID for ds in series[:2]]
    (failed,) = outcome["Failures"]
    assert (failed["SOPInstanceUID"], failed["FailureReason"]) == (series[2].SOPInstanceUID, 0x0112)


def test_orthanc_that_hangs_up_at_once_gets_its_report_all_the_same(
    orthanc: Orthanc, make_node: Callable[..., Node], make_series: Callable[..., list[Dataset]]
) -> None:
    requestors = {"ORTHANC": {"host": "127.0.0.1", "port": orthanc.dicom_port}}
    node = make_node(storage_commitment={"requestors": requestors})
    name = orthanc.knows("IAP_NODE", node.port)
    (ds,) = make_series("1.2.826.99.2", 1)
    orthanc.ask("POST", f"/modalities/{name}/store", orthanc.upload(ds).encode())
    assert _outcome(orthanc, name, {"DicomInstances": [[ds.SOPClassUID, ds.SOPInstanceUID]]})["Status"] == "Success"


def _outcome(orthanc: Orthanc, name: str, request: dict[str, Any]) -> dict[str, Any]:
    path = orthanc.ask("POST", f"/modalities/{name}/storage-commitment", request)["Path"]
    outcome: dict[str, Any] = {}

    def known() -> bool:
        outcome.update(orthanc.ask("GET", path))
        return outcome["Status"] != "Pending"

    wait_for(known, "the report")
    return outcome
