"""The de-identified copy of one instance, as a file that is only read: made when it is opened.

The header is gone through element by element, in sequences too; of those that stay, and of the pixels, the bytes are
passed on. What the node's dictionary does not know goes: nobody can say that it is harmless. Called by
`iap_node.worker.consignment`.

References
----------
PS3.15 E.1.1 (de-identifier), E.2, E.3; PS3.3 C.7.1.1 (what a de-identified instance says of itself),
C.12.1.1.5 (Contributing Equipment); PS3.16 CID 7050, CID 7005; PS3.5 7.5 (sequences), 7.8 (private elements).
"""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from io import BytesIO
from typing import BinaryIO, Final, cast

from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag

import iap_node
from iap_node.deidentification.codestreams import without_comments
from iap_node.deidentification.descriptors import TEXTUAL, cleaned
from iap_node.deidentification.profile import (
    EDITION,
    METHOD_CODES,
    OPTION_CODES,
    PROFILE_CODE,
    Action,
    Retained,
    actions,
)
from iap_node.deidentification.pseudonyms import Pseudonyms, identity_of, shifted
from iap_node.deidentification.refusals import refuse
from iap_node.dicom import elements as el
from iap_node.dicom.deflated import inflate
from iap_node.dicom.elements import Encoding
from iap_node.dicom.encoded import EncodedInstance, Part, PartsStream, Span, damage_is_told, deflated
from iap_node.dicom.file_slice import InstanceFile
from iap_node.dicom.part10 import file_preamble, read_file_meta
from iap_node.dicom.reencoding import element, value_bytes, written_vr
from iap_node.dicom.values import raw_text
from iap_node.errors import UnreadableInstance

_SOP_CLASS_UID, _SOP_INSTANCE_UID, _STUDY_INSTANCE_UID = 0x00080016, 0x00080018, 0x0020000D
_CHARACTER_SET, _PATIENT_NAME, _PATIENT_ID, _ISSUER = 0x00080005, 0x00100010, 0x00100020, 0x00100021
_REMOVED, _METHOD, _METHOD_CODES, _DATES_MODIFIED = 0x00120062, 0x00120063, 0x00120064, 0x00280303
_CONTRIBUTING_EQUIPMENT = 0x0018A001
_PIXEL_GROUP = 0x7FE0
_PIXELS = (0x7FE00008, 0x7FE00009, 0x7FE00010)
_FIRST_GROUP = 0x0008  # those below belong to messages and files
_REPEATING = (0x50, 0x60)  # curves and overlays: first byte of their groups; without its data an overlay says nothing
_DUMMY: Final[Mapping[str, bytes]] = {
    "AS": b"000Y",
    "DA": b"19000101",
    "DT": b"19000101000000",
    "TM": b"000000",
    "DS": b"0 ",
    "IS": b"0 ",
    "UR": b"http://anonymized.invalid ",
    **dict.fromkeys(("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UT"), b"ANONYMIZED"),
    **dict.fromkeys(("OB", "OW", "SS", "US", "UN"), bytes(2)),
    **dict.fromkeys(("AT", "FL", "OF", "OL", "SL", "UL"), bytes(4)),
    **dict.fromkeys(("FD", "OD", "OV", "SV", "UV"), bytes(8)),
}
_HEADER_ALLOWANCE = 64 * 1024**2  # of an inflated data set, beside its pixels


@dataclass(frozen=True, slots=True)
class DeidentifiedInstance:
    """The copy of one instance; the same bytes whenever it is opened."""

    original: InstanceFile
    retained: frozenset[Retained]
    pseudonyms: Pseudonyms
    max_bytes: int  # of an instance that came deflated, inflated

    def open(self, mode: str = "rb") -> BinaryIO:
        """A stream of its own; close it. Of the pixel data, no more than a buffer is in memory (of a deflated
        instance, all is).

        Raises
        ------
        UnsendableInstance
            It cannot be de-identified.
        UnreadableInstance
            The original is damaged.
        OSError
            It is gone or cannot be read.
        """
        if mode != "rb":
            raise ValueError(f"a de-identified copy is only read, not opened as {mode!r}")
        with ExitStack() as undo:
            stream = undo.enter_context(self.original.open("rb"))
            transfer_syntax_uid = read_file_meta(stream)
            if transfer_syntax_uid in el.DEFLATED:
                stream, complete = inflate(stream, self.max_bytes + _HEADER_ALLOWANCE)
                if not complete:
                    raise UnreadableInstance("its deflated data set is cut off, or larger than max_bytes_per_instance")
            instance = EncodedInstance(stream, transfer_syntax_uid)
            refuse(instance, transfer_syntax_uid)
            if instance.is_cut_off:
                raise UnreadableInstance("its last element is cut off; send the instance again")
            parts = _Copy(instance, stream, self.retained, self.pseudonyms).parts()
            sop_class_uid, sop_instance_uid = (
                instance.value(tag).decode("latin-1").strip(" \0") for tag in (_SOP_CLASS_UID, _SOP_INSTANCE_UID)
            )
            head = file_preamble(sop_class_uid, self.pseudonyms.uid(sop_instance_uid), transfer_syntax_uid)
            if transfer_syntax_uid in el.DEFLATED:
                return BytesIO(head + deflated(parts, stream))
            undo.pop_all()
        return cast(BinaryIO, io.BufferedReader(PartsStream([head, *parts], stream)))


class _Copy:
    """One copy while it is put together."""

    def __init__(
        self, instance: EncodedInstance, stream: BinaryIO, retained: frozenset[Retained], pseudonyms: Pseudonyms
    ) -> None:
        self._instance = instance
        self._stream = stream
        self._retained = retained
        self._pseudonyms = pseudonyms
        self._encoding: Encoding = instance.encoding
        sop_class_uid = instance.value(_SOP_CLASS_UID).decode("latin-1").strip(" \0")
        self._actions = actions(retained, sop_class_uid)
        self._where_nothing_is_left = actions(retained - {Retained.DESCRIPTORS}, sop_class_uid)
        ds = instance.dataset((_CHARACTER_SET, _PATIENT_ID, _ISSUER, _STUDY_INSTANCE_UID))
        texts = (raw_text(ds, tag) or "" for tag in (_PATIENT_ID, _ISSUER, _STUDY_INSTANCE_UID))
        self._patient = identity_of(*texts)

    def parts(self) -> list[Part]:
        """The data set, group by group: bytes of its own, and places in the original."""
        new = self._statements()
        waiting = sorted(new)
        parts: list[Part] = []
        for span in self._instance.spans:
            while waiting and waiting[0] <= span.tag:
                parts.append(new[waiting.pop(0)])
            if span.tag in new or span.tag & 0xFFFF == 0:
                continue
            if span.tag >> 16 == _PIXEL_GROUP:
                parts += self._pixels(span)
            elif span.tag >> 16 >= _FIRST_GROUP:
                with damage_is_told():
                    parts.append(self._element(self._instance.dataset([span.tag]), Tag(span.tag)))
        return [part for part in [*parts, *(new[tag] for tag in waiting)] if part]

    def _pixels(self, span: Span) -> list[Part]:
        """Pixel data as they are, and offset tables; whatever else stands in their group goes."""
        if span.tag not in _PIXELS:
            return [(span.start, span.end)] if span.tag in (0x7FE00001, 0x7FE00002) else []
        self._instance.span(span.tag)  # raises where there are two
        if span.undefined_length:
            return [
                (span.start, span.value_start),
                *without_comments(self._stream, span.value_start, span.end),
            ]
        return [(span.start, span.value_start + self._instance.length(span))]

    # ---------------------------------------------------------------- elements

    def _element(self, ds: Dataset, tag: BaseTag) -> bytes:
        """What becomes of one element; b"" for one that goes."""
        action = self._action(ds, tag)
        if action is Action.REMOVE:
            return b""
        vr = written_vr(ds, tag)
        words = b""
        if action is Action.CLEAN:
            if vr in TEXTUAL:
                value = value_bytes(ds, tag, vr, self._encoding, self._encoding)
                words = _even(cleaned(value.decode("latin-1").strip(" \0"), vr))
            if not words:
                action = self._where_nothing_is_left[tag]
                if action is Action.REMOVE:
                    return b""
        if vr == "SQ":
            items = ds[tag].value or () if action is Action.KEEP else ()
            return element(tag, "SQ", b"".join(map(self._item, items)), self._encoding)
        value = b""
        if action is Action.CLEAN:
            value = words
        elif action is not Action.EMPTY:
            value = value_bytes(ds, tag, vr, self._encoding, self._encoding)
        if action is Action.DUMMY:
            value = _DUMMY.get(vr, b"") if vr != "UI" else self._uids(value)
        elif action is Action.UID:
            value = self._uids(value)
        elif action is Action.SHIFT and vr in ("DA", "DT"):
            value = _even(shifted(value.decode("latin-1"), self._pseudonyms.days(self._patient)))
        written = ds.get_item(tag, keep_deferred=True).VR
        return element(tag, vr if written in (None, "UN") else written, value, self._encoding)

    def _action(self, ds: Dataset, tag: BaseTag) -> Action:
        if tag.is_private or tag.group < _FIRST_GROUP or tag.element == 0 or tag.group == _PIXEL_GROUP:
            return Action.REMOVE
        if (tag.group >> 8 in _REPEATING and tag.group & 0xFF <= 0x1F) or not dictionary_has_tag(tag):
            return Action.REMOVE
        action = self._actions.get(int(tag), Action.KEEP)
        known, vr = str(dictionary_VR(tag)), written_vr(ds, tag)
        if (known == "SQ") != (vr == "SQ"):
            return Action.REMOVE  # written as something else than it is: nobody knows what stands there
        if known == "SQ":
            kept = action is Action.KEEP or (action is Action.DUMMY and tag == 0x00081111)  # of UIDs alone
            if kept:
                return Action.KEEP
            # a sequence that needs a dummy describes people or content: it has no place in images
            return Action.REMOVE if action is Action.DUMMY else action
        return action

    def _item(self, item: Dataset) -> bytes:
        content = b"".join(self._element(item, tag) for tag in sorted(item.keys()))
        return _item(content, self._encoding)

    def _uids(self, value: bytes) -> bytes:
        uids = value.decode("latin-1").strip(" \0").split("\\")
        text = "\\".join(self._pseudonyms.uid(uid.strip(" \0")) for uid in uids)
        return text.encode("ascii", "replace") + b"\0" * (len(text) % 2)

    # ---------------------------------------------------------------- what a copy says of itself

    def _statements(self) -> dict[int, bytes]:
        pseudonym = self._pseudonyms.patient(self._patient)
        dates = "REMOVED"
        if Retained.FULL_DATES in self._retained:
            dates = "UNMODIFIED"
        elif Retained.MODIFIED_DATES in self._retained:
            dates = "MODIFIED"
        method = f"PS3.15 Basic Application Level Confidentiality Profile {EDITION}"
        texts = {
            _PATIENT_NAME: ("PN", pseudonym),
            _PATIENT_ID: ("LO", pseudonym),
            _REMOVED: ("CS", "YES"),
            _METHOD: ("LO", f"{method}\\iap-node {iap_node.__version__}"),
            _DATES_MODIFIED: ("CS", dates),
        }
        new = {tag: self._text(tag, vr, text) for tag, (vr, text) in texts.items()}
        own = [PROFILE_CODE, *(code for option, code in OPTION_CODES.items() if option in self._retained)]
        items = b"".join(
            self._code(code, METHOD_CODES[code]) for code in dict.fromkeys([*self._methods_before(), *own])
        )
        new[_METHOD_CODES] = element(_METHOD_CODES, "SQ", items, self._encoding)
        new[_CONTRIBUTING_EQUIPMENT] = element(_CONTRIBUTING_EQUIPMENT, "SQ", self._equipment(), self._encoding)
        return new

    def _methods_before(self) -> list[str]:
        """Codes of what the original says that it has been through."""
        with damage_is_told():
            ds = self._instance.dataset([_METHOD_CODES])
            there = ds[_METHOD_CODES].value or () if _METHOD_CODES in ds else ()
            said = [(raw_text(item, 0x00080102) or "", raw_text(item, 0x00080100) or "") for item in there]
        return [code for scheme, code in said if scheme == "DCM" and code in METHOD_CODES]

    def _equipment(self) -> bytes:
        """The items that are there, de-identified, and one more; without a time, which would make each copy another."""
        with damage_is_told():
            ds = self._instance.dataset([_CONTRIBUTING_EQUIPMENT])
            there = ds[_CONTRIBUTING_EQUIPMENT].value or () if _CONTRIBUTING_EQUIPMENT in ds else ()
            items = b"".join(map(self._item, there))
        purpose = element(0x0040A170, "SQ", self._code("109104", "De-identifying Equipment"), self._encoding)
        own = (
            self._text(0x00080070, "LO", "IAP node")
            + self._text(0x00081090, "LO", "iap-node")
            + self._text(0x00181020, "LO", iap_node.__version__)
            + purpose
        )
        return items + _item(own, self._encoding)

    def _code(self, value: str, meaning: str) -> bytes:
        content = (
            self._text(0x00080100, "SH", value)
            + self._text(0x00080102, "SH", "DCM")
            + self._text(0x00080104, "LO", meaning)
        )
        return _item(content, self._encoding)

    def _text(self, tag: int, vr: str, text: str) -> bytes:
        return element(tag, vr, _even(text), self._encoding)


def _even(text: str) -> bytes:
    return text.encode("ascii", "replace") + b" " * (len(text) % 2)


def _item(content: bytes, encoding: Encoding) -> bytes:
    order = "<" if encoding.little else ">"
    return struct.pack(f"{order}HHI", el.ITEM >> 16, el.ITEM & 0xFFFF, len(content)) + content
