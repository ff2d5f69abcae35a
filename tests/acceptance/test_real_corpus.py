"""All real series of the corpus, sent by DCMTK over real associations, end to end.

DCMTK re-encodes data sets as it sends them; what arrived at DCMTK's own bit-preserving storescp from the same sender
is the referee for "byte-identical as received".
"""

from __future__ import annotations

import csv
import subprocess
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pydicom
import pytest
from sqlalchemy import select

from iap_node.database.tables import InstanceRow
from iap_node.dicom.file_slice import InstanceFile
from iap_node.spool import Spool
from tests.acceptance.conftest import RunningNode, wait_for

# storescu proposes what it is told to: the option for each transfer syntax of the corpus
STORESCU_OPTION = {
    "1.2.840.10008.1.2": "-xi",
    "1.2.840.10008.1.2.1": "-xe",
    "1.2.840.10008.1.2.2": "-xb",
    "1.2.840.10008.1.2.4.70": "-xs",
    "1.2.840.10008.1.2.4.80": "-xt",
    "1.2.840.10008.1.2.4.90": "-xv",
    "1.2.840.10008.1.2.4.91": "-xw",
    "1.2.840.10008.1.2.5": "-xr",
    "1.2.840.10008.1.2.1.99": "-xd",
}


def corpus_files(corpus: Path) -> list[Path]:
    with (corpus / "FILES.csv").open(newline="") as stream:
        return [corpus / row["file"] for row in csv.DictReader(stream)]


def dataset_bytes(path: InstanceFile) -> bytes:
    """What follows preamble, prefix and file meta (PS3.10 7.1), whose length stands in (0002,0000)."""
    with path.open("rb") as file:
        content = file.read()
    assert content[128:132] == b"DICM" and content[132:136] == b"\x02\x00\x00\x00"
    return content[144 + int.from_bytes(content[140:144], "little") :]


def send_by_dcmsend(dcmsend: str, port: int, files: Sequence[Path]) -> subprocess.Popen[bytes]:
    command = [dcmsend, "-aec", "IAP_NODE", "-dn", "-nh", "-nuc", "127.0.0.1", str(port), *map(str, files)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def send_by_storescu(storescu: str, port: int, files: Sequence[Path]) -> Iterator[subprocess.Popen[bytes]]:
    by_syntax = defaultdict(list)
    for path in files:
        meta = pydicom.dcmread(path, specific_tags=[], stop_before_pixels=True).file_meta
        by_syntax[str(meta.TransferSyntaxUID)].append(str(path))
    for syntax, paths in by_syntax.items():
        yield subprocess.Popen(
            [storescu, "-aec", "IAP_NODE", "-R", "-up", STORESCU_OPTION[syntax], "127.0.0.1", str(port), *paths],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )


def finish(sender: subprocess.Popen[bytes]) -> None:
    output, _ = sender.communicate(timeout=240)
    assert sender.returncode == 0, output.decode(errors="replace")[-4000:]


def start_senders(
    program: Callable[[str, str], str], sender: str, associations: int, port: int, files: Sequence[Path]
) -> list[subprocess.Popen[bytes]]:
    """Send files by a DCMTK program, over several associations at once (storescu: one per transfer syntax)."""
    path = program(sender, "dcmtk")
    if sender == "storescu":
        return list(send_by_storescu(path, port, files))
    return [send_by_dcmsend(path, port, files[start::associations]) for start in range(associations)]


def receive_by_dcmtk(
    program: Callable[[str, str], str], sender: str, files: Sequence[Path], folder: Path
) -> dict[str, list[bytes]]:
    """Data set bytes by SOP Instance UID, as DCMTK's bit-preserving storescp gets them from the same sender."""
    folder.mkdir()
    server, port = start_storescp(program("storescp", "dcmtk"), folder)
    try:
        if sender == "storescu":  # storescp serves one association at a time
            for process in send_by_storescu(program(sender, "dcmtk"), port, files):
                finish(process)
        else:
            finish(send_by_dcmsend(program(sender, "dcmtk"), port, files))
    finally:
        server.terminate()
        server.wait(10)
    received: dict[str, list[bytes]] = defaultdict(list)
    for path in folder.iterdir():
        uid = str(pydicom.filereader.read_file_meta_info(path).MediaStorageSOPInstanceUID)
        received[uid].append(dataset_bytes(path))
    return received


def start_storescp(storescp: str, folder: Path) -> tuple[subprocess.Popen[bytes], int]:
    """DCMTK's storescp cannot pick a free port itself: offer it some until one is free."""
    import socket

    for _ in range(20):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        server = subprocess.Popen(
            [storescp, "--bit-preserving", "+xa", "--unique-filenames", "-od", str(folder), str(port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

        def listens(port: int = port, server: subprocess.Popen[bytes] = server) -> bool:
            with socket.socket() as probe:
                return server.poll() is not None or probe.connect_ex(("127.0.0.1", port)) == 0

        wait_for(listens, "storescp")
        if server.poll() is None:
            return server, port
    raise AssertionError("no free port for storescp")


def judged(node: RunningNode) -> list[dict[str, object]] | None:
    """All series, once each is judged or marked as not analysed."""
    series = node.series()
    return series if series and all(one["state"] in {"judged", "not analysed"} for one in series) else None


@pytest.mark.parametrize(("sender", "associations"), [("dcmsend", 4), ("storescu", 4)])
def test_every_real_instance_is_archived_as_received_and_every_series_answered(
    mr_real: Path,
    make_node: Callable[..., RunningNode],
    program: Callable[[str, str], str],
    tmp_path: Path,
    sender: str,
    associations: int,
) -> None:
    files = corpus_files(mr_real)
    node = make_node()
    node.start()
    running = start_senders(program, sender, associations, node.port, files)
    for process in running:
        finish(process)

    series = wait_for(lambda: judged(node), "all series to be answered")

    spool = Spool(node.config.spool_dir)
    database = node.database()
    with database.reading() as session:
        paths = dict(session.execute(select(InstanceRow.sop_instance_uid, InstanceRow.spool_path)).all())
    database.dispose()
    archived = {uid: dataset_bytes(spool.locate(path)) for uid, path in paths.items()}
    expected = receive_by_dcmtk(program, sender, files, tmp_path / "storescp")
    assert set(archived) == set(expected)
    assert [uid for uid, content in archived.items() if content not in expected[uid]] == []

    # the shipped model knows simulated breast MR only: a real series is novel, or says why it was not analysed
    verdicts = {str(one["series_instance_uid"]): (one["novel"], one["not_analysed_reason"]) for one in series}
    assert {uid: verdict for uid, verdict in verdicts.items() if verdict[0] is not True and not verdict[1]} == {}
    status = node.json("status")
    assert status["quarantine"] == 0
    assert node.events("role ended") == []
