"""What all sections of the configuration share: the base class, and the nearest right name for a wrong one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Base of all sections: frozen, no unknown keys, no coercion surprises; keys as they are written in the file."""

    model_config = ConfigDict(extra="forbid", frozen=True, serialize_by_alias=True)


def keys_of(section: type[Section]) -> list[str]:
    """The keys of a section as they are written in the file."""
    return [field.alias or name for name, field in section.model_fields.items()]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the nearest of the known names, "" where none is near."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
