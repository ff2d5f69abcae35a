"""Pages of lists: `items`, and `next`, the cursor to ask for the next page with; null where there is none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Generic, TypeVar

from fastapi import Query
from pydantic import BaseModel

from iap_node.audit.reports.rendering import plain

__all__ = ["Cursor", "Limit", "Page", "page_of", "plain"]

Item = TypeVar("Item")

Limit = Annotated[int, Query(ge=1, le=1000, description="At most so many.")]
Cursor = Annotated[int | None, Query(ge=1, le=2**62, description="`next` of the page before.")]


class Page(BaseModel, Generic[Item]):
    """A page of a list."""

    items: list[Item]
    next: int | None = None


def page_of(records: Sequence[Any], limit: int) -> dict[str, Any]:
    """A page from `limit` + 1 records with an `id`: the last one only tells that there is more."""
    shown = records[:limit]
    return {"items": [plain(one) for one in shown], "next": shown[-1].id if len(records) > limit else None}
