"""De-identified copies at every kind of destination: all share the step that makes them.

The images are pydicom's, with a patient's name and number in them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import ImplicitVRLittleEndian

from iap_node.config.destinations import DicomwebConfig, FolderConfig, ObjectStorageConfig
from iap_node.deidentification.copies import DeidentifiedInstance
from iap_node.deidentification.pseudonyms import Pseudonyms
from iap_node.routing.destinations.dicom import send_instances
from iap_node.routing.destinations.dicomweb import DicomwebDestination
from iap_node.routing.destinations.folder import FolderDestination
from iap_node.routing.destinations.objects import ObjectStorageDestination
from iap_node.routing.destinations.outgoing import OutgoingInstance
from tests.integration.listener.conftest import Certificates
from tests.integration.routing.https_server import HttpsServer
from tests.integration.routing.test_transcoding_destination import running_storescp

PSEUDONYMS = Pseudonyms.of_node(b"k" * 32)
NAMES = ("MR_small.dcm", "MR_small_jp2klossless.dcm", "MR_small_bigendian.dcm", "CT_small.dcm")
SECRETS = (b"CompressedSamples", b"4MR1", b"1CT1", b"TOSHIBA_MEC_MR3", b"JFK IMAGING CENTER")


def outgoing(number: int, path: Path) -> OutgoingInstance:
    ds = dcmread(path)
    return OutgoingInstance(
        number,
        str(ds.SOPClassUID),
        PSEUDONYMS.uid(str(ds.SOPInstanceUID)),
        str(ds.file_meta.TransferSyntaxUID),
        DeidentifiedInstance(path, frozenset(), PSEUDONYMS, 2**31),
    )


@pytest.fixture
def copies(tmp_path: Path) -> list[OutgoingInstance]:
    """One for each name, each with UIDs of its own."""
    made = []
    for number, name in enumerate(NAMES):
        ds = dcmread(str(get_testdata_file(name)))
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.4.5.{number}"
        path = tmp_path / name
        ds.save_as(path)
        assert any(secret in path.read_bytes() for secret in SECRETS)
        made.append(outgoing(number, path))
    return made


def assert_clean(files: list[Path], copies: list[OutgoingInstance]) -> None:
    found = {str(dcmread(path).SOPInstanceUID): path for path in files}
    assert set(found) == {one.sop_instance_uid for one in copies}
    assert not any(secret in path.read_bytes() for path in files for secret in (*SECRETS, b"1.2.3.4.5."))
    for one in copies:
        old = one.file.original  # type: ignore[attr-defined]
        assert (dcmread(found[one.sop_instance_uid]).pixel_array == dcmread(old).pixel_array).all()


def test_folder_and_object_storage(tmp_path: Path, copies: list[OutgoingInstance]) -> None:
    folder, bucket = tmp_path / "folder", tmp_path / "bucket"
    folder.mkdir()
    config = ObjectStorageConfig(kind="object-storage", url="s3://bucket/prefix")
    there = (
        FolderDestination(FolderConfig(kind="folder", path=folder)),
        ObjectStorageDestination(config.model_copy(update={"url": f"file://{bucket}"})),
    )
    for root, destination in zip((folder, bucket), there, strict=True):
        assert all(one.accepted for one in destination.send(copies))
        assert [one.comment for one in destination.send(copies)] == ["was there already"] * len(copies)
        assert_clean([path for path in root.rglob("*") if path.is_file()], copies)
        names = [str(path.relative_to(root)) for path in root.rglob("*.dcm")]
        assert all(name.count("2.25.") == 3 for name in names)


def test_dicomweb(
    https_server: HttpsServer, certificates: Certificates, tmp_path: Path, copies: list[OutgoingInstance]
) -> None:
    config = DicomwebConfig(kind="dicomweb", url=f"{https_server.url}/x", ca=certificates.file("ca.pem"), timeout_s=5)
    assert all(one.accepted for one in DicomwebDestination(config).send(copies))
    (request,) = https_server.received
    assert not any(secret in request.body for secret in (*SECRETS, b"1.2.3.4.5."))
    assert all(one.sop_instance_uid.encode() in request.body for one in copies)


def test_dcmtk_takes_copies_that_are_decompressed_for_it(
    copies: list[OutgoingInstance], program: Callable[[str, str], str], tmp_path: Path
) -> None:
    folder = tmp_path / "received"
    with running_storescp(program("storescp", "dcmtk"), folder, "+xi") as config:
        assert [one.status for one in send_instances(copies, config)] == [0] * len(copies)
    files = list(folder.iterdir())
    assert {str(dcmread(path).file_meta.TransferSyntaxUID) for path in files} == {ImplicitVRLittleEndian}
    assert_clean(files, copies)


def test_what_is_not_de_identified_is_refused_alone(
    copies: list[OutgoingInstance], tmp_path: Path, start_peer: Any
) -> None:
    ds = dcmread(str(get_testdata_file("MR_small.dcm")))
    ds.BurnedInAnnotation = "YES"
    ds.save_as(tmp_path / "burned.dcm")
    burned = outgoing(99, tmp_path / "burned.dcm")
    folder = tmp_path / "folder"
    folder.mkdir()
    peer = start_peer()
    for answers in (
        FolderDestination(FolderConfig(kind="folder", path=folder)).send([burned, *copies]),
        send_instances([burned, *copies], peer.config()),
    ):
        assert [one.accepted for one in answers] == [False, *[True] * len(copies)]
        assert answers[0].permanent
        assert "Burned In Annotation (0028,0301) is YES" in answers[0].comment
    assert burned.sop_instance_uid not in peer.uids()
