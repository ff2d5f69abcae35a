"""The C-STORE SCU against real peers: pynetdicom for the failures, DCMTK as somebody else's implementation.

Not covered here: what becomes of the answers in the queue (tests/integration/worker).
"""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)
from pynetdicom import evt
from pynetdicom.service_class import StorageServiceClass
from pynetdicom.sop_class import (
    CTImageStorage,
    EnhancedMRImageStorage,
    MRImageStorage,
    RawDataStorage,
    uid_to_service_class,
)

from iap_node.config import DestinationConfig
from iap_node.dicom.file_slice import FileSlice, InstanceFile
from iap_node.dicom.sop_classes import STORAGE_SOP_CLASSES
from iap_node.errors import ConfigError, DeliveryError
from iap_node.routing.destinations.dicom import MOST_ABORTS, echo, send_instances
from iap_node.routing.destinations.outgoing import OutgoingInstance

SYNTAXES = (
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEG2000Lossless,
    RLELossless,
)


def data_set_bytes(file: InstanceFile) -> bytes:
    with file.open("rb") as stream:
        content = stream.read()
    return content[144 + int.from_bytes(content[140:144], "little") :]  # (0002,0000) UL stands first


def test_every_transfer_syntax_arrives_byte_for_byte_over_one_association(start_peer, write_instance) -> None:
    peer = start_peer()
    instances = [write_instance(transfer_syntax_uid=syntax, size=150) for syntax in SYNTAXES]
    results = send_instances(instances, peer.config())
    assert [(item.instance_id, item.accepted, item.status) for item in results] == [
        (item.instance_id, True, 0) for item in instances
    ]
    assert peer.received == [
        (item.sop_instance_uid, item.transfer_syntax_uid, data_set_bytes(item.file)) for item in instances
    ]
    assert peer.associations == 1


def test_more_pairs_than_contexts_fit_use_further_associations(start_peer, write_instance) -> None:
    peer = start_peer()
    known = [uid for uid in STORAGE_SOP_CLASSES if uid_to_service_class(uid) is StorageServiceClass]
    instances = [
        write_instance(sop_class, syntax, size=2)
        for sop_class in known[:45]
        for syntax in (ImplicitVRLittleEndian, ExplicitVRLittleEndian, RLELossless)
    ]
    results = send_instances(instances, peer.config())
    assert len(results) == 135
    assert all(item.accepted for item in results)
    assert sorted(peer.uids()) == sorted(item.sop_instance_uid for item in instances)
    assert peer.associations == 2


def test_refused_sop_class_is_permanent_for_its_instances_only(start_peer, write_instance) -> None:
    peer = start_peer(sop_classes=[MRImageStorage])
    instances = [write_instance(), write_instance(RawDataStorage), write_instance()]
    first, refused, last = send_instances(instances, peer.config())
    assert first.accepted
    assert last.accepted
    assert (refused.accepted, refused.permanent, refused.status) == (False, True, None)
    assert RawDataStorage in refused.comment


def test_refused_transfer_syntax_is_permanent_where_nothing_is_to_be_transcoded(start_peer, write_instance) -> None:
    peer = start_peer(transfer_syntaxes=[ImplicitVRLittleEndian])
    plain, compressed, explicit = send_instances(
        [
            write_instance(transfer_syntax_uid=ImplicitVRLittleEndian),
            write_instance(transfer_syntax_uid=JPEG2000Lossless),
            write_instance(transfer_syntax_uid=ExplicitVRLittleEndian),
        ],
        peer.config(transcode="never"),
    )
    assert plain.accepted
    assert (compressed.accepted, compressed.permanent) == (False, True)
    assert (explicit.accepted, explicit.permanent) == (False, True)
    assert f"{ExplicitVRLittleEndian} (Explicit VR Little Endian)" in explicit.comment
    assert "transcode: as_needed" in explicit.comment


def test_peer_that_takes_nothing_of_a_series_refuses_each_instance(start_peer, write_instance) -> None:
    peer = start_peer(sop_classes=[CTImageStorage])
    results = send_instances([write_instance(), write_instance(EnhancedMRImageStorage)], peer.config())
    assert [(item.accepted, item.permanent) for item in results] == [(False, True)] * 2
    assert peer.received == []


@pytest.mark.parametrize(
    ("status", "accepted", "permanent"),
    [
        (0x0000, True, False),
        (0xB000, True, False),
        (0xB006, True, False),
        (0xB007, True, False),
        (0xA700, False, False),
        (0xA7FE, False, False),
        (0x0110, False, False),
        (0x0122, False, True),
        (0xA900, False, True),
        (0xC123, False, True),
    ],
)
def test_status_decides_whether_an_instance_is_accepted_retried_or_given_up(
    start_peer, write_instance, status: int, accepted: bool, permanent: bool
) -> None:
    def answer(_: evt.Event) -> Dataset:
        response = Dataset()
        response.Status = status
        response.ErrorComment = "because"
        return response

    peer = start_peer(answer=answer)
    (result,) = send_instances([write_instance()], peer.config())
    assert (result.status, result.accepted, result.permanent) == (status, accepted, permanent)
    assert result.comment == "because"


def test_peer_that_aborts_over_one_instance_gets_the_others(start_peer, write_instance) -> None:
    def answer(event: evt.Event) -> int:
        if len(peer.received) == 3:
            event.assoc.abort()
        return 0x0000

    peer = start_peer(answer=answer)
    instances = [write_instance() for _ in range(5)]
    results = send_instances(instances, peer.config())
    assert [item.accepted for item in results] == [True, True, False, True, True]
    assert [item.status for item in results] == [0, 0, None, 0, 0]
    assert not any(item.permanent for item in results)
    assert results[2].comment.startswith("no answer: the peer aborted")
    assert peer.associations == 2


def test_peer_that_always_aborts_is_left_alone_until_the_next_attempt(start_peer, write_instance) -> None:
    def answer(event: evt.Event) -> int:
        event.assoc.abort()
        return 0x0000

    peer = start_peer(answer=answer)
    results = send_instances([write_instance() for _ in range(5)], peer.config())
    assert [(item.accepted, item.permanent, item.status) for item in results] == [(False, False, None)] * 5
    assert len(peer.received) == peer.associations == MOST_ABORTS
    assert results[4].comment == "not sent: the peer ended the association again and again"


def test_peer_that_goes_away_in_the_middle_keeps_what_it_accepted(start_peer, write_instance) -> None:
    def answer(event: evt.Event) -> int:
        if len(peer.received) == 2:
            peer.close_port()
            event.assoc.abort()
        return 0x0000

    peer = start_peer(answer=answer)
    results = send_instances([write_instance() for _ in range(4)], peer.config())
    assert [item.accepted for item in results] == [True, False, False, False]
    assert results[3].comment.startswith("not sent: PEER at 127.0.0.1:")


def test_peer_that_does_not_answer_is_given_up_after_the_timeout(start_peer, write_instance) -> None:
    finished = threading.Event()

    def answer(_: evt.Event) -> int:
        finished.wait()
        return 0x0000

    peer = start_peer(answer=answer)
    try:
        results = send_instances([write_instance()], peer.config(timeout_s=3.0))
    finally:
        finished.set()
    assert [(item.accepted, item.permanent, item.status) for item in results] == [(False, False, None)]
    assert "3 s" in results[0].comment  # long enough for a busy machine to negotiate in


def test_spool_file_that_is_gone_fails_alone(start_peer, write_instance) -> None:
    peer = start_peer()
    instances = [write_instance(), write_instance(), write_instance()]
    instances[1].file.unlink()
    results = send_instances(instances, peer.config())
    assert [(item.accepted, item.permanent) for item in results] == [
        (True, False),
        (False, True),
        (True, False),
    ]


def in_a_segment(instance: OutgoingInstance, folder: Path) -> OutgoingInstance:
    """The same instance as a slice of a larger file, with others' bytes on both sides."""
    with instance.file.open("rb") as stream:
        content = stream.read()
    segment = folder / f"{instance.sop_instance_uid}.seg"
    segment.write_bytes(b"\xaa" * 4096 + content + b"\xbb" * 4096)
    return replace(instance, file=FileSlice(segment, 4096, len(content)))


def test_slice_of_a_segment_arrives_byte_for_byte_and_nothing_around_it(
    start_peer, write_instance, tmp_path: Path
) -> None:
    peer = start_peer()
    files = [write_instance(transfer_syntax_uid=syntax, size=size) for syntax in SYNTAXES for size in (2, 150)]
    slices = [in_a_segment(instance, tmp_path) for instance in files]
    assert all(item.status == 0 for item in send_instances(slices, peer.config()))
    assert [content for _, _, content in peer.received] == [data_set_bytes(item.file) for item in files]


def test_request_names_the_instance_as_its_row_does_whatever_its_file_meta_says(start_peer, write_instance) -> None:
    peer = start_peer()
    instance = replace(write_instance(), sop_class_uid=RawDataStorage, sop_instance_uid="1.2.3.4.5")
    assert [item.status for item in send_instances([instance], peer.config())] == [0]
    assert peer.uids() == ["1.2.3.4.5"]
    assert peer.sop_class_uids == [RawDataStorage]


def test_spool_file_that_is_not_what_its_row_says_fails_alone(start_peer, write_instance) -> None:
    peer = start_peer()
    good, other, damaged = write_instance(), write_instance(), write_instance()
    other = replace(other, transfer_syntax_uid=ImplicitVRLittleEndian)
    damaged.file.write_bytes(bytes(5000))
    results = send_instances([other, damaged, good], peer.config())
    assert [(item.accepted, item.permanent) for item in results] == [(False, True), (False, True), (True, False)]
    assert "its row says 1.2.840.10008.1.2" in results[0].comment
    assert "damaged" in results[1].comment
    assert peer.uids() == [good.sop_instance_uid]


def test_peer_that_stops_reading_costs_neither_memory_nor_more_than_the_timeout(start_peer, write_instance) -> None:
    finished = threading.Event()

    def stop_reading(event: evt.Event) -> None:
        if event.data[0] == 4:  # P-DATA-TF
            finished.wait()

    peer = start_peer(on_data=stop_reading, sop_classes=[MRImageStorage])
    instance = write_instance(size=4000)
    assert instance.file.stat().st_size > 30_000_000
    tracemalloc.start()
    try:
        results = send_instances([instance], peer.config(timeout_s=2))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        finished.set()
    assert [(item.accepted, item.permanent, item.status) for item in results] == [(False, False, None)]
    assert peak < 10_000_000
    assert peer.received == []


def test_no_instances_need_no_association(start_peer) -> None:
    peer = start_peer()
    assert send_instances([], peer.config()) == []
    assert peer.associations == 0


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A TCP server that accepts and says nothing: not DICOM."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_unreachable_peer_is_retried_and_named(write_instance, closed_port: int) -> None:
    config = DestinationConfig(ae_title="NOBODY", host="127.0.0.1", port=closed_port, timeout_s=5)
    with pytest.raises(DeliveryError, match=rf"NOBODY at 127.0.0.1:{closed_port} .* cannot be reached: check"):
        send_instances([write_instance()], config)
    with pytest.raises(DeliveryError, match="cannot be reached"):
        echo(config)


def test_host_name_that_does_not_resolve_is_retried_and_named(write_instance) -> None:
    config = DestinationConfig(ae_title="NOBODY", host="no-such-host.invalid", port=104, timeout_s=5)
    with pytest.raises(DeliveryError, match=r"NOBODY at no-such-host\.invalid:104"):
        send_instances([write_instance()], config)


def test_server_that_is_not_dicom_is_retried_and_named(write_instance, silent_port: int) -> None:
    config = DestinationConfig(ae_title="SILENT", host="127.0.0.1", port=silent_port, timeout_s=0.5)
    with pytest.raises(DeliveryError, match="does not answer as DICOM"):
        send_instances([write_instance()], config)


def test_wrong_called_ae_title_is_named_with_the_remedy(start_peer, write_instance) -> None:
    peer = start_peer(require_titles=True)
    with pytest.raises(DeliveryError, match=r"OTHER at .* rejects the association .*: correct its ae_title"):
        send_instances([write_instance()], peer.config(ae_title="OTHER"))
    assert peer.received == []


def test_echo_passes_where_the_peer_answers(start_peer) -> None:
    echo(start_peer().config())


# ---------------------------------------------------------------- TLS


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory, program: Callable[[str, str], str]) -> Path:
    """Two authorities, `ours` and `theirs`, and a device certificate from each: `node`, `stranger`."""
    folder = tmp_path_factory.mktemp("certificates")
    openssl = program("openssl", "openssl")

    def run(*arguments: str) -> None:
        subprocess.run([openssl, *arguments], cwd=folder, check=True, capture_output=True)

    for authority, device in (("ours", "node"), ("theirs", "stranger")):
        run("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={authority}",
            "-keyout", f"{authority}.key", "-out", f"{authority}.pem")  # fmt: skip
        run("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={device}",
            "-keyout", f"{device}.key", "-out", f"{device}.csr")  # fmt: skip
        run("x509", "-req", "-in", f"{device}.csr", "-CA", f"{authority}.pem", "-CAkey", f"{authority}.key",
            "-CAcreateserial", "-days", "2", "-out", f"{device}.pem")  # fmt: skip
    return folder


def tls_peer_context(certificates: Path, device: str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(certificates / "ours.pem"))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(certificates / f"{device}.pem", certificates / f"{device}.key")
    return context


def tls_of(certificates: Path, device: str = "node", peer_ca: str | None = "ours.pem") -> dict[str, str | None]:
    return {
        "certificate": str(certificates / f"{device}.pem"),
        "private_key": str(certificates / f"{device}.key"),
        "peer_ca": None if peer_ca is None else str(certificates / peer_ca),
    }


def test_series_travels_over_tls_with_certificates_on_both_sides(
    start_peer, write_instance, certificates: Path
) -> None:
    peer = start_peer(ssl_context=tls_peer_context(certificates, "node"))
    instance = write_instance(size=300)
    (result,) = send_instances([instance], peer.config(tls=tls_of(certificates)))
    assert result.accepted
    assert peer.received[0][2] == data_set_bytes(instance.file)


@pytest.mark.parametrize("peer_ca", ["ours.pem", None])
def test_peer_with_a_strangers_certificate_gets_nothing(
    start_peer, write_instance, certificates: Path, peer_ca: str | None
) -> None:
    peer = start_peer(ssl_context=tls_peer_context(certificates, "stranger"))
    with pytest.raises(DeliveryError, match=r"with TLS .* the certificates"):
        send_instances([write_instance()], peer.config(tls=tls_of(certificates, peer_ca=peer_ca)))
    assert peer.received == []


def test_unusable_tls_files_are_a_configuration_error(start_peer, write_instance, tmp_path: Path) -> None:
    peer = start_peer()
    tls = {"certificate": str(tmp_path / "absent.pem"), "private_key": str(tmp_path / "absent.key")}
    with pytest.raises(ConfigError, match="TLS files are not usable"):
        send_instances([write_instance()], peer.config(tls=tls))


# ---------------------------------------------------------------- DCMTK


@pytest.fixture
def storescp(tmp_path: Path, program: Callable[[str, str], str]) -> Iterator[tuple[DestinationConfig, Path]]:
    """DCMTK's storescp, bit preserving, and the folder that it writes to."""
    folder = tmp_path / "storescp"
    folder.mkdir()
    path = program("storescp", "dcmtk")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    command = [path, "-v", "+B", "+xa", "-pm", "-aet", "DCMTK", "-od", str(folder), str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        config = DestinationConfig(ae_title="DCMTK", host="127.0.0.1", port=port, timeout_s=10)
        for _ in range(200):
            with socket.socket() as probe:
                probe.settimeout(0.1)
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            threading.Event().wait(0.05)
        yield config, folder
    finally:
        process.terminate()
        process.communicate()


def test_dcmtk_stores_every_transfer_syntax_bit_for_bit(
    storescp: tuple[DestinationConfig, Path], write_instance: Callable[..., OutgoingInstance]
) -> None:
    config, folder = storescp
    echo(config)
    # deflated: DCMTK inflates it while receiving, so that its file need not be the same bytes
    syntaxes = [syntax for syntax in SYNTAXES if syntax != DeflatedExplicitVRLittleEndian]
    instances = [write_instance(transfer_syntax_uid=syntax, size=200) for syntax in syntaxes]
    assert all(item.status == 0 for item in send_instances(instances, config))
    stored = {str(dcmread(path, stop_before_pixels=True).SOPInstanceUID): path for path in folder.iterdir()}
    assert {uid: data_set_bytes(path) for uid, path in stored.items()} == {
        item.sop_instance_uid: data_set_bytes(item.file) for item in instances
    }
