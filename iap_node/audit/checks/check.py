"""What a header check is, and what it may say. Each check is a pure function with its rule, source and forgiveness.

The checks themselves stand by subject in the modules beside this one, `registry` lists them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import NamedTuple

from pydicom.datadict import dictionary_description, keyword_for_tag

from iap_node.audit.checks import tags
from iap_node.dicom.statements import Image, InstanceStatements
from iap_node.records import FindingKind, Severity

RAW_TEXT_LIMIT = 256  # characters of a raw value in a finding
SHOWN_TEXT_LIMIT = 64  # in its evidence: the most that VR LO has (PS3.5 Table 6.2-1)


class Doubt(NamedTuple):
    """What one check says of one element, in one image, instance or series."""

    tag: int
    evidence: str
    raw: str = ""
    suggested: str | None = None


class Scope(Enum):
    """What a check looks at in one call."""

    IMAGE = "image"  # (Image, InstanceStatements): a classic instance, or frames that state the same
    INSTANCE = "instance"  # (InstanceStatements,)
    SERIES = "series"  # (Sequence[InstanceStatements],), in the order of their SOP Instance UIDs


Examine = (
    Callable[[Image, InstanceStatements], Iterable[Doubt]]
    | Callable[[InstanceStatements], Iterable[Doubt]]
    | Callable[[Sequence[InstanceStatements]], Iterable[Doubt]]
)


@dataclass(frozen=True, slots=True)
class Check:
    """One check and why it may be believed."""

    name: str
    elements: tuple[int, ...]  # that it looks at
    kind: FindingKind
    severity: Severity
    rule: str  # formula and tolerance
    source: str  # part and section of the standard, or paper
    forgives: str  # habits of vendors and sites that are no finding
    scope: Scope
    examine: Examine


@lru_cache(maxsize=512)
def keyword(tag: int) -> str:
    """DICOM keyword of an element."""
    return keyword_for_tag(tag) or f"{tag >> 16:04X}{tag & 0xFFFF:04X}"


@lru_cache(maxsize=512)
def title(tag: int) -> str:
    """An element as people write it: Echo Time (0018,0081)."""
    return f"{dictionary_description(tag)} ({tag >> 16:04X},{tag & 0xFFFF:04X})"


def shown(raw: str) -> str:
    """Raw text for a sentence: printable, of bounded length."""
    text = "".join(character if character.isprintable() else " " for character in raw[: 4 * SHOWN_TEXT_LIMIT]).strip()
    return text if len(text) <= SHOWN_TEXT_LIMIT else text[: SHOWN_TEXT_LIMIT - 3] + "..."


def written(number: float) -> str:
    """A number as it would be written into a header."""
    return f"{number:.6g}"


def is_original(image: Image) -> bool:
    """Whether the pixels are those of an acquisition: Image Type (0008,0008) value 1 (PS3.3 C.7.6.1.1.2)."""
    terms = image.terms(tags.IMAGE_TYPE)
    return bool(terms) and terms[0] == "ORIGINAL"
