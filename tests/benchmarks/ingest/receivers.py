"""Who receives: this node in its forms, DCMTK's storescp, Orthanc and pynetdicom's storescp application.

Each is started on a folder of its own, with its own defaults except for the folder, the port and what its title says.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from tests.benchmarks.ingest.processes import ProcessGroup

START_S = 120.0
STOP_S = 60.0
NODE_AE_TITLE = "IAP_NODE"  # listener.ae_title
WITHOUT_NAGLE = {**os.environ, "TCP_NODELAY": "1"}  # DCMTK, and Orthanc with it, leave Nagle's algorithm on otherwise
WITH_NAGLE = {name: value for name, value in os.environ.items() if name != "TCP_NODELAY"}


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A receiver that can be started.

    `prepare` makes what it needs in a folder, for a port, and returns its command and how many instances it has stored.
    This node's also takes keys of the configuration's section `spool`.
    """

    key: str
    title: str
    promise: str  # what Success means
    called: str  # AE title
    debian_package: str  # "" where it is there in any case
    program: str
    prepare: Callable[..., tuple[list[str], Callable[[], int]]] = field(repr=False, compare=False)
    at_associations: frozenset[int] | None = None  # measured with these only

    def in_little_room(self) -> Kind:
        """The same; this node writes next to nothing ahead."""
        return replace(self, prepare=partial(self.prepare, prepared_mb=64)) if self.is_node else self

    @property
    def is_node(self) -> bool:
        """Whether it is this node."""
        return self.called == NODE_AE_TITLE

    @property
    def missing(self) -> str | None:
        """What is missing, and how to get it."""
        if shutil.which(self.program) or Path(self.program).is_file():
            return None
        return f"{self.program} is not installed; apt-get install {self.debian_package}"


@dataclass(frozen=True)
class Running:
    """A receiver that accepts associations."""

    kind: Kind
    port: int
    group: ProcessGroup
    stored: Callable[[], int]
    start_s: float  # until it accepted connections


def node(key: str, title: str, *, durability: str = "strict", processes: int = 1) -> Kind:
    """This node's listener."""
    at_associations = None if processes == 1 else frozenset({4, 8})

    def prepare(folder: Path, port: int, **spool: Any) -> tuple[list[str], Callable[[], int]]:
        folder.mkdir(parents=True, exist_ok=True)
        config = folder / "config.yaml"
        listener = {"port": port} if processes == 1 else {"port": port, "processes": processes}
        content = {
            "data_dir": "data",
            "listener": listener,
            "spool": {"durability": durability, **spool},
            "log": {"level": "warning"},
        }
        config.write_text(yaml.safe_dump(content))
        iap_node = [sys.executable, "-m", "iap_node"]
        subprocess.run([*iap_node, "init", "--config", str(config)], check=True, stdout=subprocess.DEVNULL)
        tables = folder / "data" / "node.sqlite"
        return [*iap_node, "listen", "--config", str(config)], rows_since_now(tables)

    promise = "durable" if durability == "strict" else "written, not synced"
    return Kind(
        key=key, title=title, promise=promise, called=NODE_AE_TITLE, debian_package="", program=sys.executable,
        prepare=prepare, at_associations=at_associations,
    )  # fmt: skip


def rows_since_now(tables: Path) -> Callable[[], int]:
    """How many instance rows came after this call."""

    def ask(query: str, *values: int) -> int:
        with closing(sqlite3.connect(f"file:{tables}?mode=ro", uri=True, timeout=30)) as connection:
            return int(connection.execute(query, values).fetchone()[0])

    last = ask("SELECT coalesce(max(id), 0) FROM instance")
    return lambda: ask("SELECT count(*) FROM instance WHERE id > ?", last)


def _files_in(folder: Path) -> Callable[[], int]:
    return lambda: len(os.listdir(folder))  # noqa: PTH208 - only counted


def _storescp(key: str, title: str, *options: str) -> Kind:
    def prepare(folder: Path, port: int) -> tuple[list[str], Callable[[], int]]:
        folder.mkdir(parents=True)
        # --fork: otherwise it serves one association at a time; -ll error: no warnings about the synthetic pixels
        command = ["storescp", "--fork", "-ll", "error", *options, "-od", str(folder), str(port)]
        return command, _files_in(folder)

    return Kind(
        key=key, title=title, promise="written, not synced", called="STORESCP", debian_package="dcmtk",
        program="storescp", prepare=prepare,
    )  # fmt: skip


def orthanc_program() -> str:
    return shutil.which("Orthanc") or "/usr/sbin/Orthanc"


def _prepare_orthanc(folder: Path, port: int) -> tuple[list[str], Callable[[], int]]:
    folder.mkdir(parents=True)
    http_port = free_port()
    config = folder / "orthanc.json"
    settings = {
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "DicomPort": port,
        "HttpPort": http_port,
        "RemoteAccessAllowed": False,  # its default: HTTP on the loopback only, which tells what is stored
        "Plugins": [],
    }
    config.write_text(json.dumps(settings))

    def stored() -> int:
        with urllib.request.urlopen(f"http://127.0.0.1:{http_port}/statistics", timeout=60) as answer:
            return int(json.load(answer)["CountInstances"])

    return [orthanc_program(), str(config)], stored


def _prepare_pynetdicom(folder: Path, port: int) -> tuple[list[str], Callable[[], int]]:
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "pynetdicom", "storescp", "-q", "-ba", "127.0.0.1", "-od", str(folder), str(port)]
    return command, _files_in(folder)


NODE_STRICT = node("node-strict", "this node, strict")
NODE_RELAXED = node("node-relaxed", "this node, relaxed", durability="relaxed")
NODE_STRICT_2 = node("node-strict-2", "this node, strict, 2 processes", processes=2)
STORESCP = _storescp("storescp", "DCMTK storescp")
STORESCP_BIT_PRESERVING = _storescp("storescp-bit", "DCMTK storescp, bit preserving", "--bit-preserving")
ORTHANC = Kind(
    key="orthanc", title="Orthanc", promise="storage area synced", called="ORTHANC", debian_package="orthanc",
    program=orthanc_program(), prepare=_prepare_orthanc,
)  # fmt: skip
PYNETDICOM = Kind(
    key="pynetdicom", title="pynetdicom storescp", promise="written, not synced", called="STORESCP", debian_package="",
    program=sys.executable, prepare=_prepare_pynetdicom,
)  # fmt: skip
KINDS = (
    NODE_STRICT, NODE_RELAXED, NODE_STRICT_2, STORESCP, STORESCP_BIT_PRESERVING, ORTHANC, PYNETDICOM,
)  # fmt: skip


@contextmanager
def running(
    kind: Kind, folder: Path, environment: dict[str, str] = WITHOUT_NAGLE, start_s: float = START_S
) -> Iterator[Running]:
    """Start a receiver in a folder, within `start_s`; it is stopped at the end, with all that it started."""
    port = free_port()
    command, stored = kind.prepare(folder, port)
    said = folder.with_name(f"{folder.name}.log")
    started = time.monotonic()
    with said.open("wb") as log:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    try:
        _wait_for_port(port, process, said, start_s)
        yield Running(kind, port, ProcessGroup(process.pid), stored, time.monotonic() - started)
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # our own session
            process.wait()
    said.unlink()


def free_port() -> int:
    """A port of the loopback that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for_port(port: int, process: subprocess.Popen[bytes], said: Path, start_s: float) -> None:
    deadline = time.monotonic() + start_s
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if process.poll() is not None:
            raise RuntimeError(f"it ended at once: {said.read_text(errors='replace')[-2000:]}")
        time.sleep(0.02)
    raise RuntimeError(f"nothing listens on port {port} after {start_s:.0f} s")
