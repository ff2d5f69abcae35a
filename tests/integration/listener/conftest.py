"""A running listener over real sockets, and small instances to send to it."""

from __future__ import annotations

import os
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage, generate_uid
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.presentation import build_context
from sqlalchemy import select

from iap_node.config import ListenerConfig, QueryConfig, StorageCommitmentConfig
from iap_node.database.engine import Database
from iap_node.database.tables import ConflictRow, InstanceRow, QuarantineRow
from iap_node.listener.commitment import Commitments
from iap_node.listener.intake import Intake
from iap_node.listener.limits import DiskReserve
from iap_node.listener.query import Finder
from iap_node.listener.reporter import Reporter
from iap_node.listener.scp import StoreScp
from iap_node.spool import RecordKind, Spool

WAIT_S = 30.0  # a condition that has not come true by then never will
KEY = b"k" * 32


@dataclass
class Node:
    """A listener with its spool and archive."""

    spool: Spool
    database: Database
    intake: Intake
    scp: StoreScp
    config: ListenerConfig
    released: list[list[str]] = field(default_factory=list)
    commitments: Any = None  # `Commitments` of a node that `make_node` made

    @property
    def port(self) -> int:
        return self.scp.port

    def files(self) -> list[Path]:
        """Everything that lies in the spool, once all rows are written: files, and the instances in its segments."""
        self.intake.flush(WAIT_S)
        return lying_in(self.spool)

    def rows(self, table: Any) -> list[Any]:
        self.intake.flush(WAIT_S)  # rows follow the acknowledgement
        with self.database.reading() as session:
            return list(session.scalars(select(table)))

    def stored_dataset(self, sop_instance_uid: str) -> tuple[str, bytes]:
        """Transfer syntax and data set bytes of an archived instance, read from its file by hand."""
        row = next(row for row in self.rows(InstanceRow) if row.sop_instance_uid == sop_instance_uid)
        return split_part10(self.content(row.spool_path))

    def content(self, spool_path: str) -> bytes:
        """The Part 10 file that a row names."""
        with self.spool.locate(spool_path).open("rb") as file:
            return file.read()

    def nothing_is_left(self) -> bool:
        return not self.files() and not any(self.rows(t) for t in (InstanceRow, ConflictRow, QuarantineRow))


def lying_in(spool: Spool) -> list[Path]:
    """Spool paths of all whole instances, and of all files but the segments themselves."""
    root = spool.root
    files = (path.relative_to(root) for path in root.rglob("*") if path.is_file())
    found = [path for path in files if path.parts[0] not in ("segments", "looked-through")]
    for segment in spool.segments():
        found += [Path(name) for name, record in spool.records(segment) if record.kind is RecordKind.INSTANCE]
    return sorted(found)


def crash(node: Node) -> None:
    """What the end of the process does to a spool: its locks go, and nothing else."""
    lanes = node.spool._lanes
    for lane in [*lanes._in_use.values(), *lanes._ready]:
        os.close(lane.handle)
    lanes._in_use.clear(), lanes._ready.clear(), lanes._free.clear()


def split_part10(content: bytes) -> tuple[str, bytes]:
    """Transfer syntax UID and data set bytes of a Part 10 file, by group length and nothing else."""
    assert content[128:132] == b"DICM"
    end = 144 + int.from_bytes(content[140:144], "little")
    meta = content[144:end]
    start = meta.index(b"\x02\x00\x10\x00UI")
    length = int.from_bytes(meta[start + 6 : start + 8], "little")
    return meta[start + 8 : start + 8 + length].rstrip(b"\0").decode(), content[end:]


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    """The first true value of `condition`; fails the test by name when it does not come."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.01)
    raise AssertionError(f"waited in vain for {what}")


def encode(ds: Dataset, transfer_syntax_uid: str = ExplicitVRLittleEndian) -> bytes:
    syntax = UID(transfer_syntax_uid)
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = syntax.is_little_endian, syntax.is_implicit_VR
    write_dataset(buffer, ds)
    return bytes(buffer.getvalue())


def make_instance(**changes: Any) -> Dataset:
    """A tiny MR image; `changes` by keyword, None removes an element."""
    ds = Dataset()
    ds.SOPClassUID = MRImageStorage
    ds.SOPInstanceUID = generate_uid()
    ds.StudyInstanceUID = "1.2.840.99.1"
    ds.SeriesInstanceUID = "1.2.840.99.1.1"
    ds.Modality = "MR"
    ds.PatientID = "SECRET-4711"
    ds.PatientName = "Secret^Person"
    ds.Manufacturer = "SIEMENS"
    ds.InstanceNumber = 1
    ds.Rows = ds.Columns = 4
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.SamplesPerPixel, ds.PixelRepresentation = 16, 16, 15, 1, 0
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.PixelData = bytes(range(32))
    ds["PixelData"].VR = "OW"
    for keyword, value in changes.items():
        if value is None:
            del ds[keyword]
        else:
            setattr(ds, keyword, value)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return ds


@dataclass
class Sender:
    """A pynetdicom SCU that sends bytes as they are."""

    assoc: Association

    def store(
        self,
        dataset: bytes,
        sop_instance_uid: str,
        sop_class_uid: str = MRImageStorage,
        transfer_syntax_uid: str = ExplicitVRLittleEndian,
    ) -> Dataset:
        """Status of the answer (empty when the association broke)."""
        request = C_STORE()
        request.MessageID = 1
        request.AffectedSOPClassUID = UID(sop_class_uid)
        request.AffectedSOPInstanceUID = UID(sop_instance_uid)
        request.Priority = 2
        request.DataSet = BytesIO(dataset)
        context = self.assoc._get_valid_context(
            UID(sop_class_uid), UID(transfer_syntax_uid), "scu", allow_conversion=False
        )
        self.assoc._reactor_checkpoint.clear()
        wait_for(lambda: self.assoc._is_paused, "the association's reactor")
        self.assoc.dimse.send_msg(request, context.context_id)
        _, answer = self.assoc.dimse.get_msg(block=True)
        self.assoc._reactor_checkpoint.set()
        status = Dataset()
        if answer is not None:
            status.Status = answer.Status
            status.ErrorComment = answer.ErrorComment or ""
        return status

    def store_instance(self, ds: Dataset) -> Dataset:
        return self.store(encode(ds), ds.SOPInstanceUID, ds.SOPClassUID)


@pytest.fixture
def make_node(tmp_path: Path, database: Database) -> Iterator[Callable[..., Node]]:
    """Factory of running listeners on a free port: `make_node(idle_timeout_s=1)`."""
    nodes: list[Node] = []
    reporters: list[Reporter] = []

    def make(
        *,
        start: bool = True,
        intake: Intake | None = None,
        disk: DiskReserve | None = None,
        storage_commitment: dict[str, Any] | None = None,
        query: dict[str, Any] | None = None,
        **changes: Any,
    ) -> Node:
        spool = Spool(tmp_path / "spool")
        intake = intake or Intake(spool, database, KEY)
        config = ListenerConfig.model_validate({"port": 0, "stop_timeout_s": 20} | changes)
        released: list[list[str]] = []
        commitment_config = StorageCommitmentConfig.model_validate(storage_commitment or {})
        commitments = Commitments(commitment_config, database, spool, intake)
        finder = Finder(QueryConfig.model_validate(query or {}), database, intake)
        scp = StoreScp(config, intake, released.append, disk=disk, commitments=commitments, finder=finder)
        node = Node(spool, database, intake, scp, config, released, commitments)
        nodes.append(node)
        if storage_commitment is not None:
            reporters.append(Reporter(commitments, config.ae_title))
            reporters[-1].start()
        if start:
            node.scp.start()
        return node

    yield make
    for reporter in reporters:
        reporter.stop()
    for node in nodes:
        node.scp.stop()
        node.intake.close(WAIT_S)


@pytest.fixture
def node(make_node: Callable[..., Node]) -> Node:
    """A running listener with the default configuration."""
    return make_node()


@pytest.fixture
def connect() -> Iterator[Callable[..., Sender]]:
    """Factory of associations: `connect(node.port, [(sop_class_uid, transfer_syntax_uid), ...])`."""
    associations: list[Association] = []

    def establish(
        port: int,
        contexts: list[tuple[str, str]] | None = None,
        *,
        calling_ae_title: str = "SCANNER",
        called_ae_title: str = "IAP_NODE",
        tls: Any = None,
    ) -> Sender:
        ae = AE(ae_title=calling_ae_title)
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = WAIT_S
        proposed = [build_context(*pair) for pair in contexts or [(MRImageStorage, ExplicitVRLittleEndian)]]
        tls_args = (tls, "localhost") if tls is not None else None
        assoc = ae.associate("127.0.0.1", port, proposed, ae_title=called_ae_title, tls_args=tls_args)
        associations.append(assoc)
        return Sender(assoc)

    yield establish
    for assoc in associations:
        if assoc.is_established:
            assoc.abort()


@pytest.fixture
def gate() -> threading.Event:
    """Set by a test to let something go on that waits."""
    return threading.Event()


@dataclass(frozen=True)
class Certificates:
    folder: Path

    def file(self, name: str) -> str:
        return str(self.folder / name)

    def listener(self, *, client_certificates: bool) -> dict[str, Any]:
        tls = {"certificate": self.file("node.pem"), "private_key": self.file("node.key")}
        return {"tls": tls | ({"peer_ca": self.file("ca.pem")} if client_certificates else {})}

    def client(self, own: str | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.file("ca.pem"))
        if own is not None:
            context.load_cert_chain(self.file(f"{own}.pem"), self.file(f"{own}.key"))
        return context


@pytest.fixture(scope="session")
def certificates(
    tmp_path_factory: pytest.TempPathFactory, program: Callable[[str, str], str]
) -> Certificates:
    """A CA with certificates for the node and a scanner, and a stranger that signed its own."""
    openssl = program("openssl", "openssl")
    folder = tmp_path_factory.mktemp("tls")

    def run(*arguments: str) -> None:
        subprocess.run([openssl, *arguments], cwd=folder, check=True, capture_output=True, timeout=60)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    for name in ("ca", "stranger"):
        run("req", "-x509", *key, "-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN={name}")
    (folder / "localhost").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    for name in ("node", "scanner"):
        run("req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        run(
            "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
            "-out", f"{name}.pem", "-extfile", "localhost",
        )  # fmt: skip
    return Certificates(folder)
