"""Pages of lists: `items`, and `next`, the cursor to ask for the next page with; null where there is none."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import datetime
from enum import Enum
from typing import Annotated, Any, Generic, TypeVar

from fastapi import Query
from pydantic import BaseModel

Item = TypeVar("Item")

Limit = Annotated[int, Query(ge=1, le=1000, description="At most so many.")]
Cursor = Annotated[int | None, Query(ge=1, le=2**62, description="`next` of the page before.")]


class Page(BaseModel, Generic[Item]):
    """A page of a list."""

    items: list[Item]
    next: int | None = None


def plain(record: Any) -> Any:
    """A record as values that JSON knows; numbers that are not finite become null (RFC 8259, section 6)."""
    if dataclasses.is_dataclass(record) and not isinstance(record, type):
        return {field.name: plain(getattr(record, field.name)) for field in dataclasses.fields(record)}
    if isinstance(record, Enum):
        return record.value
    if isinstance(record, datetime):
        return record.isoformat()
    if isinstance(record, float):
        return record if record - record == 0 else None
    if isinstance(record, dict):
        return {str(key): plain(value) for key, value in record.items()}
    if isinstance(record, list | tuple | set | frozenset):
        return [plain(item) for item in record]
    return record


def page_of(records: Sequence[Any], limit: int) -> dict[str, Any]:
    """A page from `limit` + 1 records with an `id`: the last one only tells that there is more."""
    shown = records[:limit]
    return {"items": [plain(one) for one in shown], "next": shown[-1].id if len(records) > limit else None}
