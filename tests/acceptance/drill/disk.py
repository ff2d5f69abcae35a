"""A disk as a power cut leaves it: replays a record (`recorder`) up to any point, then forgets what was not flushed.

Strict where file systems are kind. What is vouched for, and nothing else:

- bytes and size of a file that were written before an fsync or fdatasync of it began, which has succeeded;
- names made, changed or removed before an fsync of their folder began (for a rename: of the folder that it leads to;
  both of its names change together), if all folders above are vouched for as well.

Of the rest any part may be there: of the data any set of sectors or of pages, each as it was at some moment since the
last flush; of a file's sizes any one since; of the names any set, or all up to some moment. That the flush of one file
takes another's bytes or names along, as ext4's does, is not relied upon. Times of modification are those of the
replay: nothing may depend on them being exact after a power cut.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path, PurePosixPath

from tests.acceptance.drill.recorder import Entry, Operation

BLOCK_BYTES = 4096
SECTOR_BYTES = 512
REBUILT = ("-shm",)  # SQLite's index of its log is mapped, not written, and made anew after a crash

_ZEROS = bytes(BLOCK_BYTES)


class Survival(Enum):
    """How much of what was not flushed survives."""

    NONE = auto()
    ALL = auto()
    ORDERED = auto()  # of the data any set of pages, of the names all up to some moment
    SCATTERED = auto()  # any set of sectors, any set of names


class RecordIncomplete(Exception):
    """The record does not explain the files; the recorder misses something that the node does."""


class Content:
    """Bytes of a file, block by block; blocks of zeros are left out."""

    def __init__(self, size: int = 0, blocks: dict[int, bytes] | None = None) -> None:
        self.size = size
        self.blocks = blocks if blocks is not None else {}

    def copy(self) -> Content:
        return Content(self.size, dict(self.blocks))

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Overwrite; grows the file where needed."""
        self.size = max(self.size, offset + len(data))
        view, done = memoryview(data), 0
        while done < len(view):
            block, start = divmod(offset + done, BLOCK_BYTES)
            piece = view[done : done + BLOCK_BYTES - start]
            if len(piece) == BLOCK_BYTES:
                new = bytes(piece)
            else:
                old = self.blocks.get(block, _ZEROS)
                new = b"".join((old[:start], piece, old[start + len(piece) :]))
            self._set(block, new)
            done += len(piece)

    def zero(self, offset: int, length: int) -> None:
        """Zeros in place of what is there; the size stays."""
        end = offset + length
        first, last = offset // BLOCK_BYTES, (end - 1) // BLOCK_BYTES
        for block in [block for block in self.blocks if first <= block <= last]:
            start, stop = max(offset - block * BLOCK_BYTES, 0), min(end - block * BLOCK_BYTES, BLOCK_BYTES)
            old = self.blocks[block]
            self._set(block, old[:start] + bytes(stop - start) + old[stop:])

    def truncate(self, size: int) -> None:
        """Cut, or grow by zeros."""
        if size < self.size:
            self.zero(size, self.size - size)
        self.size = size

    def read(self, offset: int, length: int) -> bytes:
        """What is there, zeros beyond the end."""
        result = bytearray()
        while len(result) < length:
            block, start = divmod(offset + len(result), BLOCK_BYTES)
            result += self.blocks.get(block, _ZEROS)[start : start + length - len(result)]
        return bytes(result)

    def save(self, path: Path) -> None:
        """Make the file, with holes for zeros."""
        with path.open("xb") as stream:
            for block in sorted(self.blocks):
                stream.seek(block * BLOCK_BYTES)
                stream.write(self.blocks[block])
            stream.truncate(self.size)

    @classmethod
    def load(cls, path: Path) -> Content:
        """The bytes of a real file."""
        content = cls()
        with path.open("rb") as stream:
            while data := stream.read(BLOCK_BYTES):
                content.write(content.size, data)
        return content

    def _set(self, block: int, new: bytes) -> None:
        if new == _ZEROS:
            self.blocks.pop(block, None)
        else:
            self.blocks[block] = new

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Content) and (self.size, self.blocks) == (other.size, other.blocks)

    __hash__ = None  # type: ignore[assignment]  # it changes


@dataclass(frozen=True, slots=True)
class _Change:
    """A change of a file's bytes or size."""

    at: int  # its place in the record
    offset: int
    length: int
    data: bytes | None  # None: zeros
    size: int  # of the file after it

    def apply(self, content: Content) -> None:
        if self.data is not None:
            content.write(self.offset, self.data)
        elif self.length:
            content.zero(self.offset, self.length)
        content.truncate(self.size)


@dataclass(eq=False)
class File:
    """A file, whatever its names."""

    durable: Content = field(default_factory=Content)
    pending: list[_Change] = field(default_factory=list)
    size: int = 0
    modified_ns: int = 0
    mode: int = 0o600

    def change(self, at: int, offset: int, length: int, data: bytes | None, size: int) -> None:
        self.pending.append(_Change(at, offset, length, data, size))
        self.size = size

    def flush(self, before: int) -> None:
        """What was done before a place in the record is on the disk now."""
        n = next((n for n, change in enumerate(self.pending) if change.at >= before), len(self.pending))
        for change in self.pending[:n]:
            change.apply(self.durable)
        del self.pending[:n]

    def after_power_cut(self, rng: random.Random, survival: Survival) -> Content:
        """One of the states in which the power cut may leave it."""
        content = self.durable.copy()
        if survival is Survival.ALL:
            for change in self.pending:
                change.apply(content)
        elif survival is not Survival.NONE and self.pending:
            unit = SECTOR_BYTES if survival is Survival.SCATTERED else BLOCK_BYTES
            size = rng.choice([self.durable.size, *(change.size for change in self.pending)])
            for number, changes in self._changes_by_unit(unit).items():
                start = number * unit
                for change in changes[: rng.randint(0, len(changes))]:
                    first, last = max(change.offset, start), min(change.offset + change.length, start + unit)
                    if change.data is None:
                        content.zero(first, last - first)
                    else:
                        content.write(first, change.data[first - change.offset : last - change.offset])
            content.truncate(size)
        return content

    def _changes_by_unit(self, unit: int) -> dict[int, list[_Change]]:
        """The changes that concern each sector or page, zeros only where something else is or comes."""
        filled: set[int] = set()
        if any(change.data is None for change in self.pending):
            per_block = BLOCK_BYTES // unit
            filled.update(block * per_block + n for block in self.durable.blocks for n in range(per_block))
            for change in self.pending:
                filled.update(_units(change, unit) if change.data is not None else ())
        changes: dict[int, list[_Change]] = {}
        for change in self.pending:
            span = _units(change, unit)
            concerned: Iterable[int] = span if change.data is not None else sorted(filled.intersection(span))
            for number in concerned:
                changes.setdefault(number, []).append(change)
        return changes


def _units(change: _Change, unit: int) -> range:
    return range(change.offset // unit, -(-(change.offset + change.length) // unit))


@dataclass(eq=False)
class Folder:
    """A folder: what its names stand for now, and what they surely stand for after a power cut."""

    now: dict[str, Node] = field(default_factory=dict)
    durable: dict[str, Node] = field(default_factory=dict)
    modified_ns: int = 0
    mode: int = 0o700


Node = File | Folder


@dataclass(eq=False)
class _NameChange:
    """Names that change together."""

    at: int
    folder: Folder  # whose flush vouches for it
    names: dict[tuple[Folder, str], Node | None]


class Disk:
    """The files below one root while a record of them is replayed, entry by entry."""

    def __init__(self, root: Path, before: Path) -> None:
        """The record, whose paths are below `root`, begins with what lies in `before`; that is on the disk for sure."""
        self._root = PurePosixPath(root)
        self._top = _load(before)
        self._at = 0
        self._descriptors: dict[tuple[int, int], Node] = {}
        self._flushes: dict[tuple[int, int], tuple[Node, int]] = {}  # that have begun
        self._pending: list[_NameChange] = []

    def replay(self, entry: Entry) -> None:
        """The next entry of the record.

        Raises
        ------
        RecordIncomplete
            It names what is not there, or what is not modelled.
        """
        operation, path = entry.operation, entry.path
        key = (entry.process, entry.descriptor)
        match operation:
            case Operation.SEND:
                pass
            case Operation.UNMODELLED:
                raise RecordIncomplete(f"the node uses what the recorder does not model: {path}")
            case Operation.OPEN:
                self._descriptors[key] = self._open(path, entry.offset, entry.time_ns)
            case Operation.CLOSE:
                self._descriptors.pop(key, None)
            case Operation.DUP:
                self._descriptors[entry.process, entry.offset] = self._described(key)
            case Operation.SYNC_BEGINS:
                self._flushes[entry.process, entry.offset] = (self._described(key), self._at)
            case Operation.SYNCED:
                self._flush(*self._flushes.pop((entry.process, entry.offset)))
            case Operation.RENAME:
                node = self._find(path)
                self._rename(*self._place(path), *self._place(entry.other), node, entry.time_ns)
            case Operation.LINK:
                node = self._find(path) if path else self._described(key)
                folder, name = self._place(entry.other)
                self._change_names(folder, {(folder, name): node}, entry.time_ns)
            case Operation.UNLINK | Operation.RMDIR:
                folder, name = self._place(path)
                self._find(path)
                self._change_names(folder, {(folder, name): None}, entry.time_ns)
            case Operation.MKDIR:
                folder, name = self._place(path)
                self._change_names(folder, {(folder, name): Folder()}, entry.time_ns)
            case Operation.TIMES:
                self._find(path).modified_ns = entry.offset or entry.time_ns
            case _:
                self._change_file(entry, self._described(key))
        self._at += 1

    def compare(self, real: Path) -> None:
        """Hold the replay against the real files, once the process that was recorded has ended.

        Raises
        ------
        RecordIncomplete
            They differ, so that something happened which the record does not tell.
        """
        replayed = dict(_walk(self._top))
        found = dict(_walk(_load(real)))
        if names := sorted(replayed.keys() ^ found.keys()):
            raise RecordIncomplete(f"replayed or real alone: {names[:5]}")
        for name, node in replayed.items():
            if isinstance(node, File):
                content = node.after_power_cut(random.Random(0), Survival.ALL)
                other = found[name]
                if not isinstance(other, File) or content != other.durable:
                    raise RecordIncomplete(f"{name} differs from its replay")

    def cut_power(self, rng: random.Random, folder: Path) -> str:
        """Make in `folder` what the disk may hold if the power fails now; says how that was chosen."""
        of_names, of_data = rng.choice(list(Survival)), rng.choice(list(Survival))
        names: dict[Folder, dict[str, Node]] = {}
        for change in self._surviving(rng, of_names):
            for (where, name), node in change.names.items():
                table = names.setdefault(where, dict(where.durable))
                if node is None:
                    table.pop(name, None)
                else:
                    table[name] = node
        saved: dict[File, Path] = {}

        def save(node: Folder, path: Path) -> None:
            path.mkdir(mode=node.mode, parents=True)
            for name, child in sorted(names.get(node, node.durable).items()):
                if isinstance(child, Folder):
                    save(child, path / name)
                elif not name.endswith(REBUILT):
                    self._save_file(child, path / name, saved, rng, of_data)
            os.utime(path, ns=(node.modified_ns, node.modified_ns))

        save(self._top, folder)
        return f"names {of_names.name.lower()}, data {of_data.name.lower()}"

    @staticmethod
    def _save_file(file: File, path: Path, saved: dict[File, Path], rng: random.Random, survival: Survival) -> None:
        if file in saved:  # it has two names
            os.link(saved[file], path)
            return
        saved[file] = path
        file.after_power_cut(rng, survival).save(path)
        path.chmod(file.mode)
        os.utime(path, ns=(file.modified_ns, file.modified_ns))

    def _surviving(self, rng: random.Random, survival: Survival) -> list[_NameChange]:
        match survival:
            case Survival.NONE:
                return []
            case Survival.ALL:
                return self._pending
            case Survival.ORDERED:
                return self._pending[: rng.randint(0, len(self._pending))]
            case Survival.SCATTERED:
                likely = rng.random()
                return [change for change in self._pending if rng.random() < likely]

    # ------------------------------------------------------------ names

    def _parts(self, path: str) -> tuple[str, ...]:
        return PurePosixPath(os.path.normpath(path)).relative_to(self._root).parts

    def _find(self, path: str) -> Node:
        node: Node = self._top
        for part in self._parts(path):
            if not isinstance(node, Folder) or part not in node.now:
                raise RecordIncomplete(f"{path} is not there in the replay")
            node = node.now[part]
        return node

    def _place(self, path: str) -> tuple[Folder, str]:
        parent, name = os.path.split(os.path.normpath(path))
        folder = self._find(parent)
        if not isinstance(folder, Folder):
            raise RecordIncomplete(f"{parent} is no folder in the replay")
        return folder, name

    def _open(self, path: str, flags: int, time_ns: int) -> Node:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            return File(modified_ns=time_ns)
        try:
            node = self._find(path)
        except RecordIncomplete:
            if not flags & os.O_CREAT:
                raise
            folder, name = self._place(path)
            node = File(modified_ns=time_ns)
            self._change_names(folder, {(folder, name): node}, time_ns)
        if flags & os.O_TRUNC and isinstance(node, File) and node.size:
            node.change(self._at, 0, node.size, None, 0)
        return node

    def _rename(
        self, from_folder: Folder, from_name: str, to_folder: Folder, to_name: str, node: Node, time_ns: int
    ) -> None:
        from_folder.modified_ns = time_ns
        self._change_names(to_folder, {(from_folder, from_name): None, (to_folder, to_name): node}, time_ns)

    def _change_names(self, folder: Folder, names: dict[tuple[Folder, str], Node | None], time_ns: int) -> None:
        folder.modified_ns = time_ns
        for (where, name), node in names.items():
            if node is None:
                del where.now[name]
            else:
                where.now[name] = node
        self._pending.append(_NameChange(self._at, folder, names))

    def _described(self, key: tuple[int, int]) -> Node:
        try:
            return self._descriptors[key]
        except KeyError:
            raise RecordIncomplete(f"descriptor {key[1]} was never opened in the replay") from None

    # ------------------------------------------------------------ data, flushes

    def _change_file(self, entry: Entry, file: Node) -> None:
        if not isinstance(file, File):
            raise RecordIncomplete(f"{entry.operation.name} on a folder")
        offset, length, data = entry.offset, entry.length, None
        size = max(file.size, offset + length)
        match entry.operation:
            case Operation.WRITE:
                data = entry.data
            case Operation.ALLOCATE:
                length = 0  # only the size
            case Operation.PUNCH:
                size = file.size
            case Operation.TRUNCATE:
                size, length = offset, max(0, file.size - offset)
        file.change(self._at, offset, length, data, size)
        file.modified_ns = entry.time_ns

    def _flush(self, node: Node, before: int) -> None:
        if isinstance(node, File):
            node.flush(before)
            return
        left: list[_NameChange] = []
        for change in self._pending:
            if change.folder is not node or change.at >= before:
                left.append(change)
                continue
            for (where, name), target in change.names.items():
                for earlier in left:  # of the folder that a file was moved out of, not flushed itself
                    earlier.names.pop((where, name), None)
                if target is None:
                    where.durable.pop(name, None)
                else:
                    where.durable[name] = target
        self._pending = left


def _load(path: Path) -> Folder:
    folder = Folder(modified_ns=path.stat().st_mtime_ns, mode=path.stat().st_mode & 0o7777)
    for child in path.iterdir():
        status = child.stat()
        if child.is_dir():
            folder.durable[child.name] = _load(child)
        else:
            content = Content.load(child)
            mode = status.st_mode & 0o7777
            folder.durable[child.name] = File(content, [], content.size, status.st_mtime_ns, mode)
    folder.now = dict(folder.durable)
    return folder


def _walk(folder: Folder, above: str = "") -> Iterator[tuple[str, Node]]:
    for name, node in folder.now.items():
        if name.endswith(REBUILT):
            continue
        yield above + name, node
        if isinstance(node, Folder):
            yield from _walk(node, f"{above}{name}/")
