"""Part 10 files and encoded data sets: who an instance is, read within bounds; preamble and file meta.

Called by the listener's intake (`scan_instance_header`, `file_preamble`), by import and the worker
(`read_instance_header`, `read_instance`, `open_data_set`), by STOW-RS
(`identify_first_bytes`). Source: PS3.10 section 7, PS3.5 section 7.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from io import BytesIO
from typing import Any, BinaryIO, NamedTuple, cast

from iap_node.dicom import elements as el
from iap_node.dicom.deflated import InflatedStream, inflate
from iap_node.dicom.elements import Element, Encoding, Place
from iap_node.dicom.file_slice import InstanceFile
from iap_node.dicom.recurring import RecurringHeaders
from iap_node.dicom.values import decode_text
from iap_node.errors import UnreadableInstance
from iap_node.records import InstanceHeader

# A UID of our own, made once from a random UUID as PS3.5 B.2 allows; it names this implementation for ever.
IMPLEMENTATION_CLASS_UID = "2.25.215016304233562365492635565904641694031"
IMPLEMENTATION_VERSION_NAME = "IAP_NODE_01"

_UID = re.compile(r"[0-9]++(?:\.[0-9]++)*+", re.ASCII)
_INTEGER = re.compile(r"[+-]?[0-9]{1,10}", re.ASCII)
_DATE = re.compile(r"([0-9]{4})[.]?([0-9]{2})[.]?([0-9]{2})", re.ASCII)
_INT32 = 2**31

_SPECIFIC_CHARACTER_SET = 0x00080005


class _Uid(NamedTuple):
    name: str
    field: str  # of InstanceHeader


_UIDS = {  # in the order in which they are asked for
    0x00080018: _Uid("SOP Instance UID (0008,0018)", "sop_instance_uid"),
    0x00080016: _Uid("SOP Class UID (0008,0016)", "sop_class_uid"),
    0x0020000D: _Uid("Study Instance UID (0020,000D)", "study_instance_uid"),
    0x0020000E: _Uid("Series Instance UID (0020,000E)", "series_instance_uid"),
}
_TEXTS = {
    0x00100020: "patient_id",
    0x00100021: "issuer_of_patient_id",
    0x00080060: "modality",
    0x0008103E: "series_description",
    0x00181030: "protocol_name",
    0x00180015: "body_part_examined",
    0x00080070: "manufacturer",
    0x00081090: "manufacturer_model_name",
    0x00181000: "device_serial_number",
    0x00181020: "software_versions",
    0x00080008: "image_type",
}
_STUDY_DATE = 0x00080020
_INTEGER_STRINGS = {
    0x00200011: "series_number",
    0x00200013: "instance_number",
    0x00280008: "number_of_frames",
}
_UNSIGNED_SHORTS = {0x00280010: "rows", 0x00280011: "columns"}
_FIELDS = {  # of InstanceHeader
    _STUDY_DATE: "study_date",
    **{tag: uid.field for tag, uid in _UIDS.items()},
    **_TEXTS,
    **_INTEGER_STRINGS,
    **_UNSIGNED_SHORTS,
}
_WANTED = frozenset({_SPECIFIC_CHARACTER_SET, *_FIELDS})
_LAST = max(_WANTED)

_TRANSFER_SYNTAX_UID = 0x00020010
_SOURCE_AE_TITLE = 0x00020016
_META_ENCODING = Encoding(implicit=False, little=True)
_END_OF_FILE_META = 0x0002FFFF
_PREAMBLE_AND_LENGTH = struct.Struct("<128x4sHH2sHI")
_MAX_FILE_META_BYTES = 1024**2  # private information (0002,0102) has been seen to hold kilobytes
_COMPARED_AT_ONCE = 1024**2
_OWN_UIDS = frozenset({0x00080016, 0x00080018})
_IDENTIFYING_BYTES = 16 * 1024  # of a data set: hold SOP Class and Instance UID; before them stand a few short elements
_DEFLATED_HEADER_LIMIT = 256 * 1024**2  # a header beyond this is a bomb
MAX_HEADER_ELEMENTS = 100_000  # and items, up to Columns; the real headers that we have hold 414 at most


def is_safe_uid(uid: str) -> bool:
    """Whether `uid` is 1 to 64 digits and single inner dots: safe as a file name, harmless in a log.

    Leading zeros of a component, which PS3.5 section 9.1 forbids, are tolerated: real instances have them.
    """
    return len(uid) <= 64 and _is_uid(uid)


@lru_cache(1024)  # each UID of an instance is looked at several times, most of them with all the others of its series
def _is_uid(uid: str) -> bool:
    return _UID.fullmatch(uid) is not None


def file_preamble(
    sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, source_ae_title: str = ""
) -> bytes:
    """Preamble, DICM and file meta information (PS3.10 section 7.1) for a data set that follows untouched.

    Raises
    ------
    UnreadableInstance
        One of the UIDs is not a UID.
    """
    before, behind = _around_sop_instance_uid(sop_class_uid, transfer_syntax_uid, source_ae_title)
    if not is_safe_uid(sop_instance_uid):
        raise UnreadableInstance(_no_uid("SOP Instance", sop_instance_uid))
    own = _meta_element(0x0003, b"UI", sop_instance_uid)
    group = before + own + behind
    return _PREAMBLE_AND_LENGTH.pack(b"DICM", 2, 0, b"UL", 4, len(group)) + group


@lru_cache(256)  # an association sends hundreds of instances of one kind
def _around_sop_instance_uid(sop_class_uid: str, transfer_syntax_uid: str, source_ae_title: str) -> tuple[bytes, bytes]:
    """The file meta elements before and behind Media Storage SOP Instance UID, without the group length."""
    for name, uid in (("SOP Class", sop_class_uid), ("Transfer Syntax", transfer_syntax_uid)):
        if not is_safe_uid(uid):
            raise UnreadableInstance(_no_uid(name, uid))
    before = struct.pack("<HH2sHI", 2, 0x0001, b"OB", 0, 2) + b"\0\1" + _meta_element(0x0002, b"UI", sop_class_uid)
    behind = _meta_element(0x0010, b"UI", transfer_syntax_uid)
    behind += _meta_element(0x0012, b"UI", IMPLEMENTATION_CLASS_UID)
    behind += _meta_element(0x0013, b"SH", IMPLEMENTATION_VERSION_NAME)
    title = re.sub(r"[^\x20-\x5b\x5d-\x7e]", "", source_ae_title).strip()[:16]
    return before, behind + (_meta_element(0x0016, b"AE", title) if title else b"")


def _no_uid(name: str, uid: str) -> str:
    return f"{name} UID {uid[:64]!r} is not a UID; correct it at the sender"


def _meta_element(number: int, vr: bytes, value: str) -> bytes:
    encoded = value.encode("ascii")
    if len(encoded) % 2:
        encoded += b"\0" if vr == b"UI" else b" "
    return struct.pack("<HH2sH", 2, number, vr, len(encoded)) + encoded


def scan_instance_header(dataset: bytes | memoryview | BinaryIO, transfer_syntax_uid: str) -> InstanceHeader:
    """The header of an encoded data set without file meta, as a C-STORE delivers it.

    Reads no further than Columns (0028,0011) and decodes 24 elements. It stands between an instance and its
    acknowledgement: nothing but these is copied (of a deflated data set in memory, all is). A seekable stream at the
    start of the data set serves as well, whose reads are short at its end only: what is not wanted is stepped over.

    Raises
    ------
    UnreadableInstance
        It is not a data set, or SOP Class, SOP Instance, Study or Series Instance UID is absent or unsafe.
    """
    if not is_safe_uid(transfer_syntax_uid):
        raise UnreadableInstance(
            f"Transfer Syntax UID {transfer_syntax_uid[:64]!r} is not a UID; correct it at the sender"
        )
    encoding = el.encoding_of(transfer_syntax_uid)
    if transfer_syntax_uid in el.DEFLATED:
        deflated = BytesIO(dataset) if isinstance(dataset, bytes | memoryview) else dataset
        dataset = cast(BinaryIO, InflatedStream(deflated, _DEFLATED_HEADER_LIMIT))
    # None of the wanted elements is a sequence; whoever says so must not fill the memory with it.
    found, _ = el.walk(
        dataset, encoding, _WANTED, _LAST, max_sequence_bytes=el.MAX_VALUE_BYTES, max_steps=MAX_HEADER_ELEMENTS
    )
    return _header(found, encoding, transfer_syntax_uid)


class HeaderScanner:
    """Scans the headers that come in one after the other from one sender. Not for several threads at once."""

    def __init__(self) -> None:
        self._recurring: dict[Encoding, RecurringHeaders] = {}

    def scan_first_bytes(self, head: bytes | memoryview, transfer_syntax_uid: str) -> InstanceHeader | None:
        """As `scan_instance_header`, of the first bytes of a data set; None where they may not hold all that is wanted.

        Raises
        ------
        UnreadableInstance
            See there.
        """
        if transfer_syntax_uid in el.DEFLATED or not is_safe_uid(transfer_syntax_uid):
            return None
        encoding = el.encoding_of(transfer_syntax_uid)
        if encoding not in self._recurring:
            self._recurring[encoding] = RecurringHeaders(
                encoding, _WANTED, _LAST, max_value_bytes=el.MAX_VALUE_BYTES, max_steps=MAX_HEADER_ELEMENTS
            )
        found = self._recurring[encoding].walk(head)
        return None if found is None else _header(found, encoding, transfer_syntax_uid)


def _header(found: dict[int, Element], encoding: Encoding, transfer_syntax_uid: str) -> InstanceHeader:
    """What was found as a record; text decoded, numbers None when they are none."""
    fields: dict[str, Any] = {"transfer_syntax_uid": transfer_syntax_uid}
    character_set = found[_SPECIFIC_CHARACTER_SET][1] if _SPECIFIC_CHARACTER_SET in found else b""
    for tag, (_, value) in found.items():
        if tag != _SPECIFIC_CHARACTER_SET:
            convert = _converted_before if len(value) <= _REMEMBERED_BYTES else _converted
            fields[_FIELDS[tag]] = convert(tag, value, character_set, encoding.little)
    for name, field in _UIDS.values():
        uid = fields.get(field, "")
        if not is_safe_uid(uid):
            whose = f" of instance {fields['sop_instance_uid']}" if field != "sop_instance_uid" else ""
            what = "is absent" if not uid else f"is not a UID: {uid[:64]!r}"
            raise UnreadableInstance(f"{name}{whose} {what}; correct it at the sender and send it again")
    return InstanceHeader(**fields)


def _converted(tag: int, value: bytes, character_set: bytes, is_little_endian: bool) -> str | int | None:
    if tag in _TEXTS:
        return decode_text(value, character_set)
    if tag in _UIDS:
        return value.decode("latin-1").strip(" \0")
    if tag in _INTEGER_STRINGS:
        return _integer_string(value)
    return _unsigned_short(value, is_little_endian) if tag in _UNSIGNED_SHORTS else _date(value)


# The values of an instance are mostly those of the one before it; long ones are not kept in memory.
_REMEMBERED_BYTES = 256
_converted_before = lru_cache(maxsize=1024)(_converted)


def _date(value: bytes) -> str:
    """YYYYMMDD; `***` and the like are no date."""
    date = _DATE.fullmatch(value.decode("latin-1").strip(" \0"))
    return "".join(date.groups()) if date else ""


def _integer_string(value: bytes) -> int | None:
    text = value.decode("latin-1").strip(" \0")
    if not _INTEGER.fullmatch(text):
        return None
    number = int(text)
    return number if -_INT32 <= number < _INT32 else None


def _unsigned_short(value: bytes, is_little_endian: bool) -> int | None:
    return int.from_bytes(value, "little" if is_little_endian else "big") if len(value) == 2 else None


def read_instance_header(file: InstanceFile) -> InstanceHeader:
    """The header of a Part 10 file; files without preamble or without file meta are tolerated.

    Raises
    ------
    UnreadableInstance
        Not a DICOM instance, or one that cannot be identified. The text never holds the file's name.
    OSError
        The file cannot be opened or read.
    """
    with file.open("rb") as stream:
        return scan_instance_header(stream, read_file_meta(stream))


def read_instance(file: InstanceFile) -> tuple[InstanceHeader, bytes]:
    """The header of a Part 10 file and the bytes of its data set as they stand behind the file meta.

    Raises
    ------
    UnreadableInstance, OSError
        As `read_instance_header`.
    """
    with file.open("rb") as stream:
        transfer_syntax_uid = read_file_meta(stream)
        dataset = stream.read()
    return scan_instance_header(dataset, transfer_syntax_uid), dataset


@contextmanager
def open_data_set(file: InstanceFile, max_inflated_bytes: int) -> Iterator[tuple[BinaryIO, str]]:
    """A stream at the first element of a file's data set, inflated where deflated, and its transfer syntax.

    Raises
    ------
    UnreadableInstance
        Not a DICOM file, or its deflated data set is larger than `max_inflated_bytes`.
    """
    with file.open("rb") as stream:
        transfer_syntax_uid = read_file_meta(stream)
        if transfer_syntax_uid not in el.DEFLATED:
            yield stream, transfer_syntax_uid
            return
        plain, complete = inflate(stream, max_inflated_bytes)
    if not complete and plain.getbuffer().nbytes >= max_inflated_bytes:
        raise UnreadableInstance(
            f"it inflates to more than {max_inflated_bytes} bytes; raise max_bytes_per_instance to read it"
        )
    yield plain, transfer_syntax_uid


def same_data_set(one: InstanceFile, other: InstanceFile) -> bool:
    """Whether two Part 10 files hold the same data set, to the bit, in the same transfer syntax.

    Raises
    ------
    UnreadableInstance, OSError
        As `read_instance_header`.
    """
    with one.open("rb") as first, other.open("rb") as second:
        if read_file_meta(first) != read_file_meta(second):
            return False
        while (piece := first.read(_COMPARED_AT_ONCE)) == second.read(_COMPARED_AT_ONCE):
            if not piece:
                return True
    return False


def read_file_meta(stream: BinaryIO) -> str:
    """The transfer syntax UID of a Part 10 file that is open at its start; leaves it where its data set begins.

    Raises
    ------
    UnreadableInstance
        Not a DICOM file.
    """
    start = 132 if stream.read(132)[128:] == b"DICM" else 0
    stream.seek(start)
    head = stream.read(12)
    found: dict[int, Element] = {}
    if head[:8] == b"\x02\0\0\0UL\x04\0":
        # The group length is the only thing that says where file meta ends before a deflated data set.
        group = stream.read(min(int.from_bytes(head[8:12], "little"), _MAX_FILE_META_BYTES))
        found, _ = _walk_file_meta(group)
        following = stream.read(2)
        stream.seek(-len(following), 1)
        if following == b"\x02\0":
            found = {}  # the group length is wrong
    if _TRANSFER_SYNTAX_UID not in found:
        stream.seek(start)
        found, end = _walk_file_meta(stream)
        stream.seek(end.start if end is not None else start)
    if _TRANSFER_SYNTAX_UID not in found:
        return _guess_transfer_syntax(stream)
    uid = found[_TRANSFER_SYNTAX_UID][1].decode("latin-1").strip(" \0")
    if not is_safe_uid(uid):
        raise UnreadableInstance(f"Transfer Syntax UID {uid[:64]!r} is not a UID; write the file again")
    return uid


class FirstBytes(NamedTuple):
    """What the first bytes of a Part 10 file say of the instance in it."""

    data_set_at: int  # where its data set begins
    transfer_syntax_uid: str
    sop_class_uid: str  # by the data set, as all that follows
    sop_instance_uid: str


def n_first_bytes(head: bytes | bytearray) -> int:
    """How many bytes `identify_first_bytes` wants of a file that begins with `head`, 144 bytes or more of it."""
    n_file_meta = 0
    if head[128:140] == b"DICM\x02\0\0\0UL\x04\0":
        n_file_meta = min(int.from_bytes(head[140:144], "little"), _MAX_FILE_META_BYTES)
    return 144 + n_file_meta + _IDENTIFYING_BYTES


def identify_first_bytes(head: bytes | bytearray) -> FirstBytes:
    """Which instance a file holds whose first bytes (`n_first_bytes`, or all there are) are these.

    Raises
    ------
    UnreadableInstance
        Not a DICOM file, or its SOP Class or Instance UID does not stand at the beginning, where they belong.
    """
    stream = BytesIO(head)
    transfer_syntax_uid = read_file_meta(stream)
    data_set_at = stream.tell()
    source: BytesIO | InflatedStream = BytesIO(head[data_set_at:])
    if transfer_syntax_uid in el.DEFLATED:
        source = InflatedStream(cast(BinaryIO, source), _DEFLATED_HEADER_LIMIT)
    found, _ = el.walk(
        cast(BinaryIO, source), el.encoding_of(transfer_syntax_uid), _OWN_UIDS, max(_OWN_UIDS),
        max_sequence_bytes=el.MAX_VALUE_BYTES, max_steps=MAX_HEADER_ELEMENTS,
    )  # fmt: skip
    uids = []
    for tag in sorted(_OWN_UIDS):  # SOP Class, SOP Instance
        uid = found[tag][1].decode("latin-1").strip(" \0") if tag in found else ""
        if not is_safe_uid(uid):
            what = f"is not a UID: {uid[:64]!r}" if uid else "is absent"
            raise UnreadableInstance(f"{_UIDS[tag].name} {what}; correct it at the sender and send it again")
        uids.append(uid)
    return FirstBytes(data_set_at, transfer_syntax_uid, *uids)


def read_source_ae_title(file: InstanceFile) -> str:
    """Source Application Entity Title (0002,0016): who sent a file that the spool keeps; empty where it is not said.

    Raises
    ------
    UnreadableInstance, OSError
        As `read_instance_header`.
    """
    with file.open("rb") as stream:
        stream.seek(132)
        found, _ = _walk_file_meta(stream)
    return found[_SOURCE_AE_TITLE][1].decode("latin-1").strip(" \0") if _SOURCE_AE_TITLE in found else ""


def _walk_file_meta(source: bytes | BinaryIO) -> tuple[dict[int, Element], Place | None]:
    return el.walk(
        source, _META_ENCODING, frozenset({_TRANSFER_SYNTAX_UID, _SOURCE_AE_TITLE}), _END_OF_FILE_META,
        max_sequence_bytes=el.MAX_VALUE_BYTES, max_steps=MAX_HEADER_ELEMENTS,
    )  # fmt: skip


def _guess_transfer_syntax(stream: BinaryIO) -> str:
    """The transfer syntax of a data set without file meta, by its first element, which is of group 0008."""
    head = stream.read(8)
    stream.seek(-len(head), 1)
    known_vr = head[4:6] in el.SHORT_VRS or head[4:6] in el.LONG_VRS
    if head[:2] == b"\x08\0":
        return el.EXPLICIT_VR_LITTLE_ENDIAN if known_vr else el.IMPLICIT_VR_LITTLE_ENDIAN
    if head[:2] == b"\0\x08" and known_vr:
        return el.EXPLICIT_VR_BIG_ENDIAN
    raise UnreadableInstance(
        "not a DICOM file: no DICM after 128 bytes and no data set at its start; export it as Part 10"
    )
