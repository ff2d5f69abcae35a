"""Corrected copies of the instances of one series: surveyed first, then made one at a time while they are read.

`survey` reads all headers, so that whatever cannot be written is known before anything is; a `CorrectedInstance` opens
like a file and is put together on the fly, of its original's bytes and a few new elements. Called by the command
`correct` and by `iap_node.worker.deliver`.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import BinaryIO, cast

from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag

from iap_node.correction.changes import MATRIX, Change, Changes
from iap_node.correction.trace import ORIGINAL_ATTRIBUTES, Origin, creation_elements, trace_elements
from iap_node.correction.uids import CopyUids
from iap_node.correction.values import UnusableValue, Value, encode_element, encode_value, meaning
from iap_node.correction.writes import GROUPS, Write, applicable, apply, is_replaced, tags_of_interest, writes
from iap_node.dicom import elements as el
from iap_node.dicom.deflated import inflate
from iap_node.dicom.encoded import EncodedInstance, Part, PartsStream, Span, damage_is_told, deflated
from iap_node.dicom.file_slice import InstanceFile
from iap_node.dicom.part10 import file_preamble, read_file_meta
from iap_node.dicom.values import raw_text
from iap_node.errors import PermanentError, UnreadableInstance

_SOP_INSTANCE_UID, _SERIES_INSTANCE_UID = 0x00080018, 0x0020000E
_OF_CONCATENATION = (0x00209161, 0x00200242)  # Concatenation UID, SOP Instance UID of Concatenation Source
_SIGNATURES = (0x4FFE0001, 0xFFFAFFFA)  # MAC Parameters, Digital Signatures: they sign what is no more
_UID_TEXT = re.compile(rb"[0-9]+(?:\.[0-9]+)+")

OldValues = Mapping[tuple[str, int], Sequence[str | None]]  # (keyword, tag) -> the distinct values in the series


@dataclass(frozen=True, slots=True)
class Original:
    """One instance of the series that is to be copied."""

    instance_id: int
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    file: InstanceFile


@dataclass(frozen=True, slots=True)
class InstanceGroup:
    """Instances of a series whose headers say the same about what is to be corrected."""

    sop_instance_uids: tuple[str, ...]
    writes: tuple[Write, ...]  # one for each element, place and old value

    @property
    def changes_nothing(self) -> bool:
        """Whether everything stands there already."""
        return not self.writes


@dataclass(frozen=True, slots=True)
class Survey:
    """What the headers of a series hold of what is to be corrected, and what would be written."""

    changes: tuple[Change, ...]
    old_values: OldValues
    groups: tuple[InstanceGroup, ...]

    @property
    def changes_something(self) -> bool:
        """Whether any value of any instance becomes another one."""
        return any(group.writes for group in self.groups)


@dataclass(frozen=True, slots=True)
class CopyPlan:
    """How the copies of one series are made."""

    survey: Survey
    origin: Origin
    uids: CopyUids | None  # None: the copies keep the UIDs of their originals
    max_inflated_bytes: int

    def copy_uid(self, uid: str) -> str:
        """What an instance, or the series, is called in the copy."""
        return uid if self.uids is None else self.uids.copied(uid)


@dataclass(frozen=True, slots=True)
class CorrectedInstance:
    """The corrected copy of one instance, as a file that is only read: a Part 10 file, made when it is opened."""

    original: Original
    plan: CopyPlan

    @property
    def sop_instance_uid(self) -> str:
        """Of the copy."""
        return self.plan.copy_uid(self.original.sop_instance_uid)

    def open(self, mode: str = "rb") -> BinaryIO:
        """A stream of its own; close it. Of the pixel data, no more than a buffer is in memory (of a deflated
        instance, all is).

        Raises
        ------
        UnreadableInstance
            The original is damaged.
        OSError
            It is gone or cannot be read.
        """
        if mode != "rb":
            raise ValueError(f"a corrected copy is only read, not opened as {mode!r}")
        stream, transfer_syntax_uid = _opened(self.original, self.plan.max_inflated_bytes)
        with ExitStack() as undo:
            undo.enter_context(stream)
            begin = stream.tell()
            instance = EncodedInstance(stream, transfer_syntax_uid)
            new = _new_elements(instance, self.plan, self.original.sop_instance_uid)
            whole: list[Part] = [(begin, stream.seek(0, io.SEEK_END))]
            parts = instance.exchanged(new) if new else whole
            head = file_preamble(self.original.sop_class_uid, self.sop_instance_uid, transfer_syntax_uid)
            if transfer_syntax_uid in el.DEFLATED:
                return BytesIO(head + deflated(parts, stream))
            undo.pop_all()
        return cast(BinaryIO, io.BufferedReader(PartsStream([head, *parts], stream)))


def survey(originals: Iterable[Original], changes: Changes, max_inflated_bytes: int) -> Survey:
    """Read all headers of a series, and settle what is written where.

    Raises
    ------
    PermanentError
        A value has no place in an instance, or an element varies in the series and nothing says which of its values
        is wrong; or an instance cannot be read. The text names element or UID, and the remedy.
    OSError
        An original is gone or cannot be read.
    """
    found: dict[str, tuple[Write, ...]] = {}
    for original in originals:
        with _encoded(original, max_inflated_bytes) as instance:
            ds = instance.dataset(tags_of_interest(changes.changes))
            there = {  # frames that say the same count once
                (one.change.label, one.attribute.tag, one.place, meaning(one.old)): one
                for one in writes(instance, ds, changes.changes)
            }
            for one in there.values():
                if one.new is not None:
                    encode_value(one.attribute, one.new, instance.encoding.little, instance.specific_character_set)
            found[original.sop_instance_uid] = tuple(there.values())
    distinct: dict[tuple[str, int], dict[Value, str | None]] = {}
    for one in (one for all_of_one in found.values() for one in all_of_one):
        distinct.setdefault((one.change.keyword, one.attribute.tag), {}).setdefault(meaning(one.old), one.old)
    old_values = {key: tuple(values.values()) for key, values in distinct.items()}
    _refuse_what_is_nowhere(changes.changes, found.values())
    groups: dict[tuple[object, ...], tuple[list[str], tuple[Write, ...]]] = {}
    for uid, there_is in found.items():
        effective = tuple(one for one in there_is if _takes_effect(one, old_values))
        key = tuple((one.attribute.tag, one.place, meaning(one.old), one.new) for one in effective)
        groups.setdefault(key, ([], effective))[0].append(uid)
    return Survey(
        changes=changes.changes,
        old_values=old_values,
        groups=tuple(InstanceGroup(tuple(uids), effective) for uids, effective in groups.values()),
    )


def _refuse_what_is_nowhere(changes: Sequence[Change], found: Iterable[Sequence[Write]]) -> None:
    """An element that only some old value is to be replaced of must have it somewhere."""
    there = [one for all_of_one in found for one in all_of_one]
    for change in changes:
        if change.replaces is None or change.keyword == MATRIX:  # whose parts are changes of their own
            continue
        if not any(one.change is change and is_replaced(one) for one in there):
            raise UnusableValue(f"{change.label} is set, but {change.replaces!r} stands nowhere in the series")


def _takes_effect(one: Write, old_values: OldValues) -> bool:
    return applicable(one, old_values.get((one.change.keyword, one.attribute.tag), ())) and one.does_something


# ---------------------------------------------------------------- one instance


def _opened(original: Original, max_inflated_bytes: int) -> tuple[BinaryIO, str]:
    """At its first element, inflated where deflated, and its transfer syntax."""
    with ExitStack() as undo:
        stream = undo.enter_context(original.file.open("rb"))
        transfer_syntax_uid = read_file_meta(stream)
        if transfer_syntax_uid not in el.DEFLATED:
            undo.pop_all()
            return stream, transfer_syntax_uid
        plain, complete = inflate(stream, max_inflated_bytes)
    if not complete:
        raise UnreadableInstance(
            f"its deflated data set is cut off, or inflates to more than {max_inflated_bytes} bytes"
        )
    return plain, transfer_syntax_uid


@contextmanager
def _encoded(original: Original, max_inflated_bytes: int) -> Iterator[EncodedInstance]:
    """An instance while it is looked at; what is wrong with it, by its UID."""
    try:
        stream, transfer_syntax_uid = _opened(original, max_inflated_bytes)
        with stream:
            yield EncodedInstance(stream, transfer_syntax_uid)
    except UnreadableInstance as error:
        raise PermanentError(
            f"instance {original.sop_instance_uid} cannot be copied: {error}; have it sent again"
        ) from error


def _new_elements(instance: EncodedInstance, plan: CopyPlan, sop_instance_uid: str) -> dict[int, bytes]:
    """The top-level elements that the copy has otherwise, encoded; b"" for those that it does not have."""
    ds = instance.dataset(tags_of_interest(plan.survey.changes))
    new: dict[int, bytes] = {}
    touched: set[int] = set()
    for one in writes(instance, ds, plan.survey.changes):
        if not _takes_effect(one, plan.survey.old_values):
            continue
        if one.path:
            with damage_is_told():
                apply(ds, one, instance)
            touched.add(one.path[0][0])
        else:
            new[one.attribute.tag] = _element(instance, one)
    if plan.uids is not None:
        touched |= {tag for tag in _referring(instance, plan.uids) if _refer(ds, instance, tag, plan.uids)}
        new |= _own_uids(instance, plan.uids, sop_instance_uid)
    new |= {tag: instance.encode(ds, tag) for tag in touched}
    if not new:
        return {}
    new |= creation_elements(instance, plan.origin.corrected_at, new_instance=plan.uids is not None)
    new |= {tag: b"" for tag in _SIGNATURES if instance.span(tag) is not None}
    return new | trace_elements(instance, tuple(new), plan.origin)


def _element(instance: EncodedInstance, one: Write) -> bytes:
    if one.new is None:
        return b""
    value = encode_value(one.attribute, one.new, instance.encoding.little, instance.specific_character_set)
    return encode_element(one.attribute.tag, one.attribute.vr, value, instance.encoding)


def _own_uids(instance: EncodedInstance, uids: CopyUids, sop_instance_uid: str) -> dict[int, bytes]:
    new = {
        _SOP_INSTANCE_UID: uids.copied(sop_instance_uid),
        _SERIES_INSTANCE_UID: uids.copied(uids.series_instance_uid),
    }
    for tag in _OF_CONCATENATION:
        if old := instance.value(tag).decode("latin-1").strip(" \0"):
            new[tag] = uids.copied(old)
    return {tag: encode_element(tag, "UI", _uid_bytes(uid), instance.encoding) for tag, uid in new.items()}


def _uid_bytes(text: str) -> bytes:
    value = text.encode("ascii")
    return value + b"\0" * (len(value) % 2)


# ---------------------------------------------------------------- references within the series


def _referring(instance: EncodedInstance, uids: CopyUids) -> list[int]:
    """The standard's sequences that name an instance of the series, or the series."""
    return [
        span.tag
        for span in instance.spans
        if _is_sequence(span)
        and span.tag != ORIGINAL_ATTRIBUTES  # what it says of the past stays true
        and any(uids.referred(text.decode("ascii")) for text in _UID_TEXT.findall(instance.value(span.tag)))
    ]


def _is_sequence(span: Span) -> bool:
    if (span.tag >> 16) % 2 or span.vr not in ("", "UN", "SQ"):
        return False
    return span.vr == "SQ" or (dictionary_has_tag(span.tag) and dictionary_VR(span.tag) == "SQ")


def _refer(ds: Dataset, instance: EncodedInstance, tag: int, uids: CopyUids) -> bool:
    """Let the references in one sequence follow into the copy; whether there were any."""
    if tag not in GROUPS:
        ds.update(instance.dataset([tag]))
    with damage_is_told():
        return _refer_in(ds, Tag(tag), uids, instance)


def _refer_in(ds: Dataset, tag: BaseTag, uids: CopyUids, instance: EncodedInstance) -> bool:
    if tag.is_private:
        return False
    element = ds.get_item(tag)
    vr = element.VR if element is not None else None
    if vr in (None, "UN"):
        vr = dictionary_VR(tag) if dictionary_has_tag(tag) else "UN"
    if vr == "SQ":
        found = [
            _refer_in(item, inner, uids, instance) for item in ds[tag].value or () for inner in list(item.keys())
        ]
        return any(found)
    if vr != "UI":
        return False
    old = (raw_text(ds, tag) or "").split("\\")
    new = [uids.referred(text) or text for text in old]
    if new == old:
        return False
    value = _uid_bytes("\\".join(new))
    implicit, little = instance.encoding
    ds[tag] = RawDataElement(tag, None if implicit else "UI", len(value), value, 0, implicit, little)
    return True
