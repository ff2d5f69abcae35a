"""What a person hands over for import: a folder, a DICOMDIR, a zip, or one file. Called by `iap-node import`.

All of it comes from outside. The names in a DICOMDIR and in a zip are only ever looked up, never written to; a
DICOMDIR reaches no file outside its folder; a zip is read member by member as a stream, nothing of it is unpacked, and
what claims too much is refused with its reason.

References
----------
PS3.10 section 8.6 (DICOMDIR), PS3.3 Annex F (Basic Directory), APPNOTE.TXT of PKWARE (zip).
"""

from __future__ import annotations

import io
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, cast

import pydicom
from pydicom.errors import InvalidDicomError

from iap_node.dicom.folder import DICOMDIR, list_files
from iap_node.errors import PermanentError

MEDIA_STORAGE_DIRECTORY: Final = "1.2.840.10008.1.3.10"
MAX_DICOMDIR_BYTES: Final = 128 * 1024**2  # some hundreds of thousands of records
MAX_CENTRAL_DIRECTORY_BYTES: Final = 64 * 1024**2  # of a zip: some hundreds of thousands of names
# A member that is larger than this must not be packed tighter than that: pixels are not, whole zeros are (1000 to 1).
BOMB_BYTES, BOMB_RATIO = 256 * 1024**2, 200
INACTIVE: Final = 0  # Record In-use Flag (0004,1410)

_END_OF_CENTRAL_DIRECTORY = struct.Struct("<4s4H2LH")
_ZIP64_LOCATOR = struct.Struct("<4sLQL")
_ZIP64_END = struct.Struct("<4sQ2H2L4Q")
_MAX_COMMENT = 65_535


class RefusedMember(Exception):
    """Something of a zip or a DICOMDIR that is not read; the text says why."""


@dataclass(frozen=True, slots=True)
class ZipMember:
    """A file in a zip; `open` reads it without unpacking it anywhere."""

    archive: zipfile.ZipFile
    info: zipfile.ZipInfo
    obstacle: str = ""  # why it is not read; empty: it is

    def open(self, mode: str = "rb") -> BinaryIO:
        """A stream of its bytes.

        Raises
        ------
        RefusedMember
            It is not to be believed, is encrypted, or is packed in a way that is not known here. Reading may raise it
            too: the member is damaged.
        """
        if self.obstacle:
            raise RefusedMember(self.obstacle)
        if mode != "rb":
            raise ValueError(f"a member of a zip is only read, not opened as {mode!r}")
        try:
            return cast(BinaryIO, _Member(self.archive.open(self.info)))
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError) as error:
            raise RefusedMember(f"it cannot be unpacked ({type(error).__name__}); unpack it by hand") from error

    def __str__(self) -> str:
        return self.info.filename


@dataclass(frozen=True, slots=True)
class AbsentFile:
    """A file that a DICOMDIR names and that is not to be had."""

    name: str
    obstacle: str

    def open(self, mode: str = "rb") -> BinaryIO:
        """Never opens; see `ZipMember.open`."""
        raise RefusedMember(self.obstacle)

    def __str__(self) -> str:
        return self.name


MediaFile = Path | ZipMember | AbsentFile


class _Member(io.RawIOBase):
    """A member as a stream whose damage has a name."""

    def __init__(self, inner: zipfile.ZipExtFile | object) -> None:
        self._inner = cast(zipfile.ZipExtFile, inner)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        try:
            return self._inner.seek(offset, whence)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise RefusedMember("it is damaged; pack it again") from error

    def tell(self) -> int:
        return self._inner.tell()

    def read(self, size: int = -1) -> bytes:
        try:
            return self._inner.read(size)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise RefusedMember("it is damaged; pack it again") from error

    def close(self) -> None:
        self._inner.close()
        super().close()


@contextmanager
def open_media(path: Path, max_file_bytes: int) -> Iterator[Sequence[MediaFile]]:
    """The files that may be instances, of whatever a path is.

    Parameters
    ----------
    max_file_bytes
        A member of a zip that says to be larger is refused.

    Raises
    ------
    PermanentError
        The zip or the DICOMDIR cannot be used as a whole; the text says why.
    OSError
        It cannot be read.
    """
    if path.is_dir():
        yield list_files(path)
    elif zipfile.is_zipfile(path) and not _is_part_10(path):
        _check_central_directory(path)
        try:
            archive = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
            raise PermanentError(f"{path.name} is a damaged zip; pack it again") from error
        with archive:
            yield _members(archive, max_file_bytes)
    elif path.name.upper() == DICOMDIR or _is_directory_of_media(path):
        yield _files_of_dicomdir(path)
    else:
        yield [path]


# ---------------------------------------------------------------- zip


def _members(archive: zipfile.ZipFile, max_file_bytes: int) -> list[MediaFile]:
    overlapping: set[int] = set()
    widest, end = None, -1  # the member that reaches furthest so far
    for info in sorted(archive.infolist(), key=lambda info: info.header_offset):
        if widest is not None and info.header_offset < end:
            overlapping |= {id(info), id(widest)}
        if info.header_offset + info.compress_size > end:
            widest, end = info, info.header_offset + info.compress_size
    return [
        ZipMember(archive, info, _obstacle(info, max_file_bytes, overlaps=id(info) in overlapping))
        for info in archive.infolist()
        if not info.is_dir() and info.filename.rpartition("/")[2].upper() != DICOMDIR
    ]


def _obstacle(info: zipfile.ZipInfo, max_file_bytes: int, *, overlaps: bool) -> str:
    if overlaps:
        return "it overlaps with another member, as in a zip bomb; pack it again"
    if info.flag_bits & 0x1:
        return "it is encrypted; unpack it by hand"
    if stat.S_ISLNK(info.external_attr >> 16):
        return "it is a link; links are not followed"
    if info.file_size > max_file_bytes:
        return "it is larger than listener.max_instance_mb"
    if info.file_size > BOMB_BYTES and info.file_size > BOMB_RATIO * info.compress_size:
        return f"it is packed more than {BOMB_RATIO} to 1, as in a zip bomb; unpack it by hand if you trust it"
    return ""


def _check_central_directory(path: Path) -> None:
    """Raise PermanentError where the list of members would fill the memory: it is read whole."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        start = max(0, size - _END_OF_CENTRAL_DIRECTORY.size - _MAX_COMMENT)
        file.seek(start)
        tail = file.read()
        at = tail.rfind(b"PK\x05\x06")
        if at < 0 or at + _END_OF_CENTRAL_DIRECTORY.size > len(tail):
            raise PermanentError(f"{path.name} is a damaged zip; pack it again")
        directory_bytes = _END_OF_CENTRAL_DIRECTORY.unpack_from(tail, at)[5]
        locator_at = start + at - _ZIP64_LOCATOR.size
        if locator_at >= 0:
            file.seek(locator_at)
            signature, _, zip64_at, _ = _ZIP64_LOCATOR.unpack(file.read(_ZIP64_LOCATOR.size))
            if signature == b"PK\x06\x07":
                # Python looks right before the locator, and the standard where it points to
                for place in {zip64_at, locator_at - _ZIP64_END.size}:
                    if 0 <= place <= size - _ZIP64_END.size:
                        file.seek(place)
                        directory_bytes = max(directory_bytes, _ZIP64_END.unpack(file.read(_ZIP64_END.size))[8])
    if directory_bytes > MAX_CENTRAL_DIRECTORY_BYTES:
        raise PermanentError(f"{path.name} has too many members; unpack it by hand and import the folder")


# ---------------------------------------------------------------- DICOMDIR


def _is_part_10(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"  # a zip may hide in a preamble's end; then it is an instance


def _is_directory_of_media(path: Path) -> bool:
    if not _is_part_10(path):
        return False
    try:
        ds = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SOPClassUID"])
    except (InvalidDicomError, ValueError, OSError, EOFError, NotImplementedError):
        return False
    return str(ds.file_meta.get("MediaStorageSOPClassUID", "")) == MEDIA_STORAGE_DIRECTORY


def _files_of_dicomdir(path: Path) -> list[MediaFile]:
    """The files that the records of a DICOMDIR refer to, each once, in the order of the records."""
    if path.stat().st_size > MAX_DICOMDIR_BYTES:
        raise PermanentError(f"{path.name} is too large for a DICOMDIR; import its folder")
    try:
        records = pydicom.dcmread(path, force=False).get("DirectoryRecordSequence") or []
        references = [
            _components(record.get("ReferencedFileID"))
            for record in records
            if record.get("RecordInUseFlag", 0xFFFF) != INACTIVE and record.get("ReferencedFileID")
        ]
    except (InvalidDicomError, ValueError, TypeError, KeyError, AttributeError, EOFError, NotImplementedError) as error:
        raise PermanentError(f"{path.name} cannot be read as a DICOMDIR; import its folder") from error
    folder = path.resolve().parent
    return [_find(folder, components) for components in dict.fromkeys(references)]


def _components(value: object) -> tuple[str, ...]:
    """Referenced File ID (0004,1500): the path from the DICOMDIR's folder, one component per value."""
    several = [value] if isinstance(value, str) else list(cast("Sequence[object]", value))
    return tuple(str(one) for one in several)


def _find(folder: Path, components: tuple[str, ...]) -> MediaFile:
    name = "/".join(components)
    if any(part in ("", ".", "..") or "/" in part or "\\" in part or "\0" in part for part in components):
        return AbsentFile(name, "the DICOMDIR names a place outside of its folder")
    place = folder
    for part in components:
        exact = place / part
        if not exact.exists():  # media that were copied from a disc are often in lower case
            exact = next((one for one in _listed(place) if one.name.upper() == part.upper()), exact)
        place = exact
    if not place.resolve().is_relative_to(folder):
        return AbsentFile(name, "the DICOMDIR names a place outside of its folder")
    if not place.is_file():
        return AbsentFile(name, "the DICOMDIR names it, but it is not there")
    return place


def _listed(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []
