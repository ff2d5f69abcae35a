"""A folder as a destination: each instance a DICOM file, named by a template, there whole or not at all.

Names are made of UIDs and a few other elements, each reduced to characters that mean nothing to any file system, so
that no header leads out of the folder. A file is written under a name that begins with a dot, synchronised and then
renamed: programs that watch the folder never see half of one. What is there already is compared and left.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import structlog

from iap_node.config.destinations import FolderConfig
from iap_node.errors import DeliveryError
from iap_node.records import InstanceDelivery
from iap_node.routing.destinations.names import file_name
from iap_node.routing.destinations.outgoing import (
    NotReadable,
    OutgoingInstance,
    delivered,
    file_chunks,
    header_of,
    refused,
    unanswered,
)

FILE_MODE = 0o640
FOLDER_MODE = 0o750
_FULL = (errno.ENOSPC, errno.EDQUOT)

log = structlog.get_logger("destination")


class FolderDestination:
    """Writes files below one folder, which must be there: one that is made would hide that a disk is not mounted."""

    def __init__(self, config: FolderConfig) -> None:
        self._root = config.path
        self._template = config.template

    def send(self, instances: Sequence[OutgoingInstance]) -> list[InstanceDelivery]:
        """Write instances; those that are there already, byte for byte, count as delivered.

        Raises
        ------
        DeliveryError
            The folder is not there. Retried.
        """
        if instances:
            self._look()
        answers: list[InstanceDelivery] = []
        why_not = ""
        for instance in instances:
            try:
                answer = unanswered(instance, why_not) if why_not else self._deliver(instance)
            except NotReadable as error:
                answer = error.answer
            except OSError as error:
                if error.errno == errno.ENAMETOOLONG:
                    answer = refused(instance, "its name would be too long; shorten the template of this destination")
                else:
                    why_not = f"not written: {_reason(error)}"
                    answer = unanswered(instance, why_not)
                    log.warning("folder cannot be written", folder=str(self._root), error=why_not)
            answers.append(answer)
        return answers

    def echo(self) -> None:
        """Write an empty file and remove it.

        Raises
        ------
        DeliveryError
            The folder is not there or cannot be written.
        """
        self._look()
        try:
            handle, name = tempfile.mkstemp(prefix=".iap-node-echo-", dir=self._root)
            os.close(handle)
            Path(name).unlink()
        except OSError as error:
            raise DeliveryError(f"folder {self._root} cannot be written: {_reason(error)}") from error

    def _look(self) -> None:
        if not self._root.is_dir():
            raise DeliveryError(f"folder {self._root} is not there; make it, or mount its disk")

    def _deliver(self, instance: OutgoingInstance) -> InstanceDelivery:
        path = self._root / file_name(self._template, header_of(instance))
        if path.is_symlink() or path.exists():
            return self._compare(instance, path)
        self._make_folders(path.parent)
        if not _write(path, file_chunks(instance)):
            return unanswered(instance, "another worker writes it at this moment")
        return delivered(instance)

    def _compare(self, instance: OutgoingInstance, path: Path) -> InstanceDelivery:
        if path.is_file() and not path.is_symlink() and _holds(path, file_chunks(instance)):
            return delivered(instance, "was there already")
        return refused(instance, "something else stands under its name; move it away, then retry")

    def _make_folders(self, folder: Path) -> None:
        missing = []
        while folder != self._root and not folder.is_dir():
            missing.append(folder)
            folder = folder.parent
        for one in reversed(missing):
            with contextlib.suppress(FileExistsError):
                one.mkdir(mode=FOLDER_MODE)
            _sync(one.parent)


def _write(path: Path, chunks: Iterator[bytes]) -> bool:
    """Write a file that appears whole or not at all; False when another worker has it in hand.

    A worker that died leaves its part behind, which the next one takes over.
    """
    part = path.with_name(f".{path.name}.part")
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE)
    with os.fdopen(handle, "wb", buffering=0) as target:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        if not _is_named(handle, part):  # it was finished, and has its final name, since it was opened
            return False
        with contextlib.ExitStack() as undo:
            undo.callback(part.unlink, missing_ok=True)
            target.truncate()
            for chunk in chunks:
                rest = memoryview(chunk)
                while rest:
                    rest = rest[target.write(rest) or 0 :]
            os.fsync(handle)
            part.rename(path)
            undo.pop_all()
    _sync(path.parent)
    return True


def _is_named(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.lstat())
    except FileNotFoundError:
        return False


def _holds(path: Path, chunks: Iterator[bytes]) -> bool:
    with path.open("rb") as stream:
        return all(stream.read(len(chunk)) == chunk for chunk in chunks) and not stream.read(1)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _reason(error: OSError) -> str:
    return "its disk is full; make room there" if error.errno in _FULL else f"{error.strerror}; mend that"
