"""Headers that come one after the other are nearly the same: what repeats is recognised, not taken apart again.

Called by `part10.HeaderScanner`, one per association. `RecurringHeaders.walk` finds what `elements.walk` finds: bytes
that were whole elements at the start of an element before are the same elements there again.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from iap_node.dicom.elements import LONG_HEADER_BYTES, SHORT_HEADER_BYTES, SHORT_VRS, Element, Encoding, walk

MOST_HEADER_BYTES = 16_384  # what is longer is walked over each time
# A sender whose headers do not repeat costs a look in vain each time; after so many we learn again much later.
PATIENCE, PAUSE = 8, 200


@dataclass(frozen=True, slots=True)
class _Run:
    """Elements that were the same in all headers so far."""

    content: bytes
    wanted: Mapping[int, Element]


@dataclass(frozen=True, slots=True)
class _Varying:
    """An element whose value was not: with a 16-bit length, or implicit with a 32-bit one."""

    tag: int
    start: bytes  # tag and VR as written
    is_wanted: bool


class RecurringHeaders:
    """Walks over headers of one encoding. Not for several threads at once.

    Parameters
    ----------
    wanted, stop_after, max_value_bytes, max_steps
        As for `elements.walk`; nothing that is wanted is a sequence.
    """

    def __init__(
        self, encoding: Encoding, wanted: frozenset[int], stop_after: int, *, max_value_bytes: int, max_steps: int
    ) -> None:
        self._encoding = encoding
        self._wanted = wanted
        self._stop_after = stop_after
        self._max_value_bytes = max_value_bytes
        self._max_steps = max_steps
        order = "<" if encoding.little else ">"
        self._read_length = struct.Struct(order + ("I" if encoding.implicit else "H")).unpack_from
        self._read_tag = struct.Struct(order + "HH").unpack_from
        self._parts: list[_Run | _Varying] = []
        self._last: dict[int, bytes] = {}  # elements of the header that was learned last, as written
        self._varying: set[int] = set()
        self._n_in_vain = 0

    def walk(self, head: bytes | memoryview) -> dict[int, Element] | None:
        """The wanted elements of a data set that begins with `head`; None where that may not hold all of them.

        Raises
        ------
        UnreadableInstance
            See `elements.walk`.
        """
        first = bytes(head[:MOST_HEADER_BYTES])
        recognised = self._recognise(first)
        if recognised is not None:
            self._n_in_vain = 0
            return recognised
        self._n_in_vain += 1
        places: list[int] | None = [] if self._n_in_vain <= PATIENCE else None
        if self._n_in_vain > PAUSE:
            self._n_in_vain = 0
        found, beyond = walk(
            head, self._encoding, self._wanted, self._stop_after, max_value_bytes=self._max_value_bytes,
            max_sequence_bytes=self._max_value_bytes, max_steps=self._max_steps, places=places,
        )  # fmt: skip
        if beyond is None:
            return None
        if places is not None and beyond.start <= len(first):
            self._learn([first[start:end] for start, end in pairwise([*places, beyond.start])], found)
        return found

    def _recognise(self, head: bytes) -> dict[int, Element] | None:
        """What is found in a header that is like those before; None where it is not."""
        if not self._parts:
            return None
        found: dict[int, Element] = {}
        place, n_bytes = 0, len(head)
        for part in self._parts:
            if isinstance(part, _Run):
                if not head.startswith(part.content, place):
                    return None
                found.update(part.wanted)
                place += len(part.content)
                continue
            value = place + SHORT_HEADER_BYTES
            if value > n_bytes or not head.startswith(part.start, place):
                return None
            end = value + self._read_length(head, place + len(part.start))[0]
            if end > n_bytes:
                return None
            if part.is_wanted and end - value <= self._max_value_bytes:
                found[part.tag] = head[place:value], head[value:end]
            place = end
        if place + LONG_HEADER_BYTES > n_bytes:
            return None
        group, number = self._read_tag(head, place)
        return found if group << 16 | number > self._stop_after else None

    def _learn(self, header: list[bytes], found: Mapping[int, Element]) -> None:
        """Compare a header, element by element, with the one before, and know what repeats."""
        elements: dict[int, bytes] = {}
        for content in header:
            group, number = self._read_tag(content, 0)
            elements[group << 16 | number] = content
        if list(elements) == list(self._last):
            self._varying |= {tag for tag, content in elements.items() if content != self._last[tag]}
        else:
            self._varying.clear()
        self._last = elements
        self._parts = []
        if len(elements) < len(header):  # one stands there twice
            return
        parts: list[_Run | _Varying] = []
        run: dict[int, bytes] = {}
        for tag, content in elements.items():
            if tag not in self._varying:
                run[tag] = content
                continue
            start = content[: 4 if self._encoding.implicit else 6]
            if (not run and not parts) or (start[4:] not in SHORT_VRS and not self._encoding.implicit):
                return  # the first element may say how all are written; other forms are not for here
            if run:
                parts.append(_run(run, found))
                run = {}
            parts.append(_Varying(tag, start, tag in self._wanted))
        if run:
            parts.append(_run(run, found))
        self._parts = parts


def _run(elements: Mapping[int, bytes], found: Mapping[int, Element]) -> _Run:
    return _Run(b"".join(elements.values()), {tag: found[tag] for tag in elements if tag in found})
