"""Corrected copies as files in a folder: whole and durable under their name, or not there at all.

Called by the command `correct`. A copy that is there already, to the byte, is left as it is, so that a run that was
ended goes on where it was; another file of that name is never overwritten.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from iap_node.correction.copies import CorrectedInstance
from iap_node.errors import PermanentError, RetriableError, UnreadableInstance
from iap_node.spool.files import FILE_MODE, make_directory, sync_directory

_AT_ONCE = 1024**2


@dataclass(frozen=True, slots=True)
class WrittenCopy:
    """One copy in its folder."""

    instance_id: int  # of the original
    path: Path
    was_there: bool  # to the byte, from an earlier run


def write_copies(copies: Iterable[CorrectedInstance], folder: Path) -> Iterator[WrittenCopy]:
    """Write copies into a folder, made if it is not there, as `<SOP Instance UID>.dcm`.

    Raises
    ------
    RetriableError
        The disk is full or fails. What was yielded before is whole, nothing else is there under its name.
    PermanentError
        Another file has the name of a copy, another run writes it, an original is damaged or gone, or the folder may
        not be written.
    """
    try:
        make_directory(folder, below=_existing(folder))
    except OSError as error:
        raise _cannot_write(folder, error) from error
    for copy in copies:
        yield _write(copy, folder)


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.is_dir())


def _write(copy: CorrectedInstance, folder: Path) -> WrittenCopy:
    path = folder / f"{copy.sop_instance_uid}.dcm"
    with _opened(copy) as source:
        try:
            if path.exists():
                with path.open("rb") as there:
                    if _same(source, there):
                        return WrittenCopy(copy.original.instance_id, path, was_there=True)
                raise PermanentError(f"{path} is another file than the copy: move it away, or choose another --out")
            _write_new(source, path)
        except OSError as error:
            raise _cannot_write(folder, error) from error
    return WrittenCopy(copy.original.instance_id, path, was_there=False)


@contextlib.contextmanager
def _opened(copy: CorrectedInstance) -> Iterator[BinaryIO]:
    uid = copy.original.sop_instance_uid
    try:
        source = copy.open()
    except FileNotFoundError as error:
        raise PermanentError(f"the bytes of instance {uid} are gone; have the series sent again") from error
    except UnreadableInstance as error:
        raise PermanentError(f"instance {uid} cannot be copied: {error}; have it sent again") from error
    with source:
        yield source


def _write_new(source: BinaryIO, path: Path) -> None:
    """Under a hidden name that the next run takes over if this one is killed; then synced, renamed, synced."""
    part = path.with_name(f".{path.name}.part")
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
    with os.fdopen(handle, "wb") as target:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            raise _other_run(path) from error
        if not _is_named(handle, part):  # it was finished, and has its final name, since it was opened
            raise _other_run(path)
        with contextlib.ExitStack() as undo:
            undo.callback(_discard, target, part)
            target.truncate()
            while piece := source.read(_AT_ONCE):
                target.write(piece)
            target.flush()
            os.fsync(handle)
            part.rename(path)
            undo.pop_all()
    sync_directory(path.parent)


def _is_named(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _other_run(path: Path) -> PermanentError:
    return PermanentError(f"another run writes {path} at this moment; wait for its end")


def _discard(target: BinaryIO, part: Path) -> None:
    """Leave nothing behind; that what is in its buffer may not fit either is no news."""
    with contextlib.suppress(OSError):
        part.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        target.close()


def _same(one: BinaryIO, other: BinaryIO) -> bool:
    while (piece := one.read(_AT_ONCE)) == other.read(_AT_ONCE):
        if not piece:
            return True
    return False


def _cannot_write(folder: Path, error: OSError) -> RetriableError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return RetriableError(f"the disk of {folder} is full; make room and run the command again, it goes on there")
    return RetriableError(f"cannot write to {folder}: {error.strerror}; mend that and run the command again")
