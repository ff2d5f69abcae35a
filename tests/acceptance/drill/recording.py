"""A listener recorded at work, in a folder: its data before, the record, and the ledger of its senders."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.acceptance.drill.disk import Disk, RecordIncomplete
from tests.acceptance.drill.driver import SUCCESS, Instances, Ledger, Senders, responses
from tests.acceptance.drill.listener_process import ListenerProcess
from tests.acceptance.drill.recorder import Entry, Operation, read_record, recording_environment

WAIT_S = 120.0


@dataclass(frozen=True, slots=True)
class Recording:
    """What a listener did from its start to its end; `data/` is what it left."""

    folder: Path

    def entries(self) -> list[Entry]:
        return list(read_record(self.folder / "record"))

    def disk(self) -> Disk:
        """The disk as it was when the record began."""
        return Disk(self.folder / "data", self.folder / "before")

    def ledger(self) -> tuple[Ledger, dict[int, tuple[str, str]]]:
        """What had been acknowledged when the record began, and what each Message ID in it stands for.

        The ledger knows all that was sent until the end.
        """
        content = json.loads((self.folder / "ledger.json").read_text())
        ledger = Ledger()
        ledger.sent = {uid: set(digests) for uid, digests in content["sent"].items()}
        ledger.acknowledged = {uid: set(digests) for uid, digests in content["acknowledged_before"].items()}
        ledger.cannot_stand = {(uid, digest) for uid, digest in content["cannot_stand"]}
        return ledger, {int(number): (uid, digest) for number, (uid, digest) in content["messages"].items()}

    def check(self) -> list[Entry]:
        """The entries, once they explain what lies on the disk now and every acknowledgement that senders got.

        Raises
        ------
        RecordIncomplete
            They do not: the recorder misses something that the listener does.
        """
        entries = self.entries()
        disk = self.disk()
        for entry in entries:
            disk.replay(entry)
        disk.compare(self.folder / "data")
        _, items = self.ledger()
        recorded = {message_id for entry in entries for message_id in acknowledged_in(entry)}
        got = set(json.loads((self.folder / "ledger.json").read_text())["answered"])
        if recorded != got or not recorded <= items.keys():
            raise RecordIncomplete(f"{len(recorded)} acknowledgements in the record, senders got {len(got)}")
        return entries


def record_listener(
    folder: Path,
    library: Path,
    seed: int,
    *,
    n_acknowledged: int,
    n_senders: int = 3,
    data: Path | None = None,
    known: Ledger | None = None,
    spool: Mapping[str, Any] | None = None,
    n_processes: int = 1,
    large_every: int = 0,
) -> Recording:
    """Record a listener from its start, on an empty node or on `data`, until so many stores were acknowledged.

    Parameters
    ----------
    library
        From `build_recorder`.
    known
        What had been sent and acknowledged when `data` was left.
    spool
        That section of the configuration.
    n_processes
        That serve the listener's port.
    large_every
        See `Instances`.
    """
    folder.mkdir(parents=True)
    listener = ListenerProcess(folder, {"spool": spool or {}, "listener": {"processes": n_processes}})
    root = folder / "data"
    if data is None:
        listener.prepare()
    else:
        shutil.move(data, root)
    shutil.copytree(root, folder / "before")
    ledger = Ledger()
    if known is not None:
        ledger.sent, ledger.acknowledged, ledger.cannot_stand = known.sent, known.acknowledged, known.cannot_stand
    acknowledged_before = {uid: sorted(digests) for uid, digests in ledger.acknowledged.items()}
    senders = Senders(seed, n_senders, Instances(seed, large_every=large_every), ledger, listener.port_or_none)
    listener.start(recording_environment(library, root, folder / "record"))
    try:
        senders.start()
        ledger.wait_for(n_acknowledged, WAIT_S)
        senders.stop()
        listener.stop()
    finally:
        listener.close()
    assert not ledger.faults, ledger.faults
    if n_processes > 1:  # each writes its rows by itself: of two that come to two processes, either may stand
        ledger.cannot_stand.clear()
    content = {
        "sent": {uid: sorted(digests) for uid, digests in ledger.sent.items()},
        "cannot_stand": sorted(ledger.cannot_stand),
        "acknowledged_before": acknowledged_before,
        "messages": {number: (item.sop_instance_uid, item.digest) for number, item in ledger.messages.items()},
        "answered": ledger.answered,
    }
    (folder / "ledger.json").write_text(json.dumps(content))
    return Recording(folder)


def acknowledged_in(entry: Entry) -> list[int]:
    """Message IDs of the stores that an entry of the record answers with Success."""
    if entry.operation is not Operation.SEND:
        return []
    return [message_id for message_id, status in responses(entry.data) if status == SUCCESS]
