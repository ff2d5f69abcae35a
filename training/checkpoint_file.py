"""A file of `torch.save` from somebody else, looked through before torch reads it.

`torch.load(weights_only=True)` runs no code, but believes what the file claims: a storage of ten gigabytes over a
record of four bytes is read beyond its end. So the archive's directory and its pickle are read as data first: nothing
that is named there is imported or called, and every storage must have exactly the bytes that it claims. Called by
`training.checkpoint_import`.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from iap_node.errors import NodeError

LARGEST_FILE = 256 * 1024**2
"""Bytes. The published network has 45 MB; one epoch's file holds it once."""

LARGEST_PICKLE = 4 * 1024**2
MOST_RECORDS = 4096

# A pickle is a program for a machine with a stack: it may end in any of these.
_DAMAGE = (
    pickle.UnpicklingError, ArithmeticError, AttributeError, EOFError, ImportError, LookupError, MemoryError,
    RecursionError, TypeError, ValueError,
)  # fmt: skip

_BYTES = {
    "DoubleStorage": 8, "FloatStorage": 4, "HalfStorage": 2, "BFloat16Storage": 2, "LongStorage": 8, "IntStorage": 4,
    "ShortStorage": 2, "CharStorage": 1, "ByteStorage": 1, "BoolStorage": 1,
}  # fmt: skip


class CheckpointError(NodeError):
    """The file is no checkpoint of the published code; the text names what was found."""


@dataclass(frozen=True, slots=True)
class _StorageType:
    name: str


class _Inert:
    """What a name that builds tensors stands for here: it takes anything and does nothing."""

    def __setstate__(self, state: object) -> None:
        return None


def _nothing(*arguments: object) -> _Inert:
    return _Inert()


_BUILDERS: dict[tuple[str, str], Callable[..., object]] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _nothing,
    ("torch._utils", "_rebuild_parameter"): _nothing,
}


class _Reader(pickle.Unpickler):
    """Reads the pickle of a checkpoint as data: collects the storages that it claims, refuses every other name."""

    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content))
        self.claims: dict[str, int] = {}

    def find_class(self, module: str, name: str) -> Any:
        """A stand-in for the few names that tensors need.

        Raises
        ------
        CheckpointError
            Any other name: code that would be run.
        """
        if module == "torch" and name in _BYTES:
            return _StorageType(name)
        builder = _BUILDERS.get((module, name))
        if builder is None:
            raise CheckpointError(f"pickled code: it names {f'{module}.{name}'[:100]!r}; a state_dict needs none")
        return builder

    def persistent_load(self, pid: Any) -> object:
        """Note what one storage claims, bytes by key.

        Raises
        ------
        CheckpointError
            It is no claim that torch writes.
        """
        match pid:
            case ("storage", _StorageType(name), str(key), str(), int(numel)) if 0 <= numel <= LARGEST_FILE:
                self.claims[key] = numel * _BYTES[name]
            case ("storage", _StorageType(), str(key), str(), int(numel)):
                raise CheckpointError(f"storage {key[:40]!r} claims {numel} values, more than any file may hold")
            case _:
                raise CheckpointError(f"a storage that torch does not write: {str(pid)[:100]}")
        return _Inert()


def read(path: Path) -> object:
    """What `torch.save` put into a file.

    Raises
    ------
    CheckpointError
        It is too large, damaged, not what torch writes since 1.6, runs code, or claims more than it holds.
    """
    try:
        size = path.stat().st_size
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror}") from error
    if size > LARGEST_FILE:
        raise CheckpointError(f"{size} bytes, more than the {LARGEST_FILE} that a ResNet-18 can need")
    _look_through(path, size)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, ValueError) as error:
        raise CheckpointError(f"torch refuses it: {' '.join(str(error).split())[:300]}") from error


def _look_through(path: Path, size: int) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            _check_directory(members, size)
            pickles = [one for one in members if PurePosixPath(one.filename).name == "data.pkl"]
            if len(pickles) != 1:
                raise CheckpointError(f"an archive with {len(pickles)} files data.pkl, where torch writes one")
            if pickles[0].file_size > LARGEST_PICKLE:
                raise CheckpointError(f"its data.pkl has {pickles[0].file_size} bytes, more than {LARGEST_PICKLE}")
            folder = pickles[0].filename.removesuffix("data.pkl")
            reader = _Reader(archive.read(pickles[0]))
            held = {one.filename: one.file_size for one in members}
    except zipfile.BadZipFile as error:
        raise CheckpointError(
            f"no whole archive of torch.save ({error}): cut off, or written by a torch before 1.6, or something else"
        ) from error
    except (OSError, NotImplementedError, RuntimeError) as error:
        raise CheckpointError(f"an archive that cannot be read: {error}") from error
    if held.get(f"{folder}byteorder", 0) and _byte_order(path, f"{folder}byteorder") != b"little":
        raise CheckpointError("values in another byte order than little endian")
    try:
        reader.load()
    except _DAMAGE as error:
        raise CheckpointError(f"a damaged pickle: {type(error).__name__}: {str(error)[:100]}") from error
    for key, claimed in reader.claims.items():
        found = held.get(f"{folder}data/{key}")
        if found != claimed:
            holds = "is missing" if found is None else f"holds {found}"
            raise CheckpointError(f"storage {key[:40]!r} claims {claimed} bytes, and its record {holds}")


def _check_directory(members: list[zipfile.ZipInfo], size: int) -> None:
    if len(members) > MOST_RECORDS:
        raise CheckpointError(f"{len(members)} records, where a ResNet-18 has about 130")
    if len({one.filename for one in members}) != len(members):
        raise CheckpointError("an archive with two records of the same name")
    if any(one.compress_type != zipfile.ZIP_STORED or one.file_size != one.compress_size for one in members):
        raise CheckpointError("an archive with compressed records, which torch does not write")
    if sum(one.file_size for one in members) > size:
        raise CheckpointError("records that claim more bytes than the file has")


def _byte_order(path: Path, name: str) -> bytes:
    with zipfile.ZipFile(path) as archive:
        return archive.read(name)[:16]
