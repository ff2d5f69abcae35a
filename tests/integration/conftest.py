"""For tests over real sockets: a C-STORE SCP that does as told, and Part 10 files to send."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.filewriter import dcmwrite
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE, evt
from pynetdicom.sop_class import MRImageStorage, Verification

from iap_node.config import DestinationConfig
from iap_node.dicom.sop_classes import STORAGE_SOP_CLASSES, TRANSFER_SYNTAXES
from iap_node.routing.destinations.outgoing import OutgoingInstance


@dataclass
class Peer:
    """A pynetdicom C-STORE SCP; `answer` decides each instance's status and may abort the association."""

    ae_title: str = "PEER"
    answer: Callable[[evt.Event], int | Dataset] = lambda _: 0x0000
    sop_classes: Sequence[str] = STORAGE_SOP_CLASSES
    transfer_syntaxes: Sequence[str] = TRANSFER_SYNTAXES
    require_titles: bool = False
    ssl_context: Any = None
    on_data: Callable[[evt.Event], None] = lambda _: None  # every PDU; while it blocks, nothing is read
    received: list[tuple[str, str, bytes]] = field(default_factory=list)  # SOP Instance UID, syntax, data set
    sop_class_uids: list[str] = field(default_factory=list)  # of the same
    associations: int = 0
    port: int = 0  # 0: a free one
    _server: Any = None

    def start(self) -> None:
        ae = AE(ae_title=self.ae_title)
        ae.require_called_aet = self.require_titles
        ae.add_supported_context(Verification)
        for sop_class in self.sop_classes:
            ae.add_supported_context(sop_class, list(self.transfer_syntaxes))
        handlers = [
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_ACCEPTED, self._accepted),
            (evt.EVT_DATA_RECV, self.on_data),
        ]
        self._server = ae.start_server(
            ("127.0.0.1", self.port), block=False, evt_handlers=handlers, ssl_context=self.ssl_context
        )
        self.port = self._server.server_address[1]

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()

    def close_port(self) -> None:
        """Take no further connections; running associations go on."""
        self._server.socket.close()

    def uids(self) -> list[str]:
        """SOP Instance UIDs in the order of arrival, the refused ones included."""
        return [uid for uid, _, _ in self.received]

    def config(self, **changes: Any) -> DestinationConfig:
        """The node's configuration of this peer."""
        content = {"ae_title": self.ae_title, "host": "127.0.0.1", "port": self.port, "timeout_s": 10.0}
        return DestinationConfig.model_validate(content | changes)

    def _accepted(self, _: evt.Event) -> None:
        self.associations += 1

    def _store(self, event: evt.Event) -> int | Dataset:
        uid = str(event.request.AffectedSOPInstanceUID)
        self.sop_class_uids.append(str(event.request.AffectedSOPClassUID))
        self.received.append((uid, str(event.context.transfer_syntax), event.request.DataSet.getvalue()))
        return self.answer(event)


@pytest.fixture
def start_peer() -> Iterator[Callable[..., Peer]]:
    """Factory of running peers: `start_peer(answer=...)`; all are stopped at the end."""
    peers: list[Peer] = []

    def start(**settings: Any) -> Peer:
        peer = Peer(**settings)
        peers.append(peer)
        peer.start()
        return peer

    yield start
    for peer in peers:
        peer.stop()


@pytest.fixture
def write_instance(tmp_path: Path) -> Callable[..., OutgoingInstance]:
    """Factory of Part 10 files: `write_instance(sop_class_uid, transfer_syntax_uid, size=8, Rows=4)`."""
    lock = threading.Lock()
    count = 0

    def write(
        sop_class_uid: str = MRImageStorage,
        transfer_syntax_uid: str = ExplicitVRLittleEndian,
        size: int = 64,
        **elements: Any,
    ) -> OutgoingInstance:
        nonlocal count
        with lock:
            count += 1
            number = count
        syntax = UID(transfer_syntax_uid)
        ds = Dataset()
        ds.SOPClassUID = UID(sop_class_uid)
        ds.SOPInstanceUID = generate_uid()
        ds.PatientID = "TEST"
        ds.StudyInstanceUID = "1.2.3"
        ds.SeriesInstanceUID = "1.2.3.4"
        ds.Modality = "MR"
        ds.EchoTime = "2.1"
        ds.InstanceNumber = number
        ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PhotometricInterpretation = size, size, 1, "MONOCHROME2"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
        pixels = bytes(index % 251 for index in range(2 * size * size))
        if syntax.is_compressed and not syntax.is_deflated:
            ds.PixelData = encapsulate([pixels])  # nothing here decodes it
            ds["PixelData"].is_undefined_length = True
        else:
            ds.PixelData = pixels
        ds["PixelData"].VR = "OW"
        ds.update(elements)  # by keyword
        ds.file_meta = FileMetaDataset()
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        ds.file_meta.TransferSyntaxUID = syntax
        path = tmp_path / f"instance-{number}.dcm"
        dcmwrite(path, ds, enforce_file_format=True)
        return OutgoingInstance(number, str(ds.SOPClassUID), str(ds.SOPInstanceUID), str(syntax), path)

    return write
