"""What peers take only uncompressed: DCMTK's storescp restricted to it, and peers that refuse still more.

Not covered here: how each transfer syntax is decoded (tests/unit/dicom/test_transcoding.py).
"""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from pydicom import dcmread, dcmwrite
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate
from pydicom.uid import (
    MPEG4HP41,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

from iap_node.config import DestinationConfig
from iap_node.routing.destinations.dicom import send_instances
from iap_node.routing.destinations.outgoing import OutgoingInstance

REAL = (
    "MR_small_RLE.dcm",
    "MR_small_jp2klossless.dcm",
    "MR_small_jpeg_ls_lossless.dcm",
    "MR_small_bigendian.dcm",
    "image_dfl.dcm",
    "rtdose_rle.dcm",  # 15 frames
    "SC_rgb_rle_2frame.dcm",
)


@contextmanager
def running_storescp(program: str, folder: Path, *options: str) -> Iterator[DestinationConfig]:
    """DCMTK's storescp as a destination that writes into a folder."""
    folder.mkdir()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    command = [program, *options, "-pm", "-aet", "DCMTK", "-od", str(folder), str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(200):
            with socket.socket() as probe:
                probe.settimeout(0.1)
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            threading.Event().wait(0.05)
        yield DestinationConfig(ae_title="DCMTK", host="127.0.0.1", port=port, timeout_s=10)
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def compressed(tmp_path: Path) -> list[OutgoingInstance]:
    """Real and simulated instances in all kinds of transfer syntaxes, each with a UID of its own."""
    folder = tmp_path / "stored"
    folder.mkdir()
    instances = []

    def write(ds: Any) -> None:
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        path = folder / f"{len(instances)}.dcm"
        dcmwrite(path, ds)
        syntax = str(ds.file_meta.TransferSyntaxUID)
        instances.append(
            OutgoingInstance(100 + len(instances), str(ds.SOPClassUID), str(ds.SOPInstanceUID), syntax, path)
        )

    for name in REAL:
        write(dcmread(str(get_testdata_file(name))))
    frames = np.random.default_rng(1).integers(0, 4096, (3, 16, 20)).astype(np.uint16)
    ds = dcmread(str(get_testdata_file("MR_small_jp2klossless.dcm")))
    ds.NumberOfFrames, ds.Rows, ds.Columns = 3, 16, 20
    ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 12, 11, 0
    ds.PixelData = encapsulate([imagecodecs.jpeg8_encode(one, lossless=True, bitspersample=12) for one in frames])
    ds.file_meta.TransferSyntaxUID = JPEGLosslessSV1
    write(ds)
    return instances


@pytest.mark.parametrize(("option", "expected"), [("+xe", ExplicitVRLittleEndian), ("+xi", ImplicitVRLittleEndian)])
def test_dcmtk_restricted_to_uncompressed_gets_every_instance_with_the_same_pixels(
    compressed: list[OutgoingInstance],
    program: Callable[[str, str], str],
    tmp_path: Path,
    option: str,
    expected: str,
) -> None:
    before = [Path(str(one.file)).read_bytes() for one in compressed]
    with running_storescp(program("storescp", "dcmtk"), tmp_path / "received", option) as config:
        answers = send_instances(compressed, config)
    assert [(one.status, one.comment) for one in answers] == [(0, "")] * len(compressed)
    received = {str(ds.SOPInstanceUID): ds for ds in map(dcmread, (tmp_path / "received").iterdir())}
    assert set(received) == {one.sop_instance_uid for one in compressed}
    for one in compressed:
        new = received[one.sop_instance_uid]
        if (option, one.transfer_syntax_uid) != ("+xe", ExplicitVRBigEndian):  # which that accepts as it is
            assert new.file_meta.TransferSyntaxUID == expected
        np.testing.assert_array_equal(new.pixel_array, dcmread(one.file).pixel_array)
    assert [Path(str(one.file)).read_bytes() for one in compressed] == before


def test_what_the_peer_takes_as_it_is_goes_as_it_is(compressed: list[OutgoingInstance], start_peer: Any) -> None:
    peer = start_peer(transfer_syntaxes=[ImplicitVRLittleEndian, ExplicitVRLittleEndian, JPEG2000Lossless, RLELossless])
    assert all(one.accepted for one in send_instances(compressed, peer.config()))
    came = {uid: syntax for uid, syntax, _ in peer.received}
    kept = {ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEG2000Lossless, RLELossless}
    for one in compressed:
        stored = one.transfer_syntax_uid
        assert came[one.sop_instance_uid] == (stored if stored in kept else ExplicitVRLittleEndian)
    assert peer.associations == 1


def test_an_instance_that_can_be_sent_in_no_syntax_fails_for_good_and_alone(
    compressed: list[OutgoingInstance], start_peer: Any, write_instance: Any
) -> None:
    peer = start_peer(transfer_syntaxes=[ExplicitVRLittleEndian])
    video, damaged = write_instance(transfer_syntax_uid=MPEG4HP41), write_instance(transfer_syntax_uid=JPEGLSLossless)
    answers = send_instances([*compressed, video, damaged], peer.config())
    assert all(one.accepted for one in answers[:-2])
    assert [(one.accepted, one.permanent) for one in answers[-2:]] == [(False, True)] * 2
    assert MPEG4HP41 in answers[-2].comment
    assert "cannot be decompressed here; allow it there" in answers[-2].comment
    assert f"{JPEGLSLossless} (JPEG-LS Lossless" in answers[-1].comment
    assert "send the instance again; or allow that transfer syntax there" in answers[-1].comment


def test_a_peer_that_refuses_uncompressed_too_is_told_what_to_allow(
    compressed: list[OutgoingInstance], start_peer: Any
) -> None:
    peer = start_peer(transfer_syntaxes=[JPEGLSLossless])
    answers = send_instances(compressed, peer.config())
    assert [one.accepted for one in answers] == [one.transfer_syntax_uid == JPEGLSLossless for one in compressed]
    assert all(
        one.permanent and "and uncompressed; allow it there" in one.comment for one in answers if not one.accepted
    )
