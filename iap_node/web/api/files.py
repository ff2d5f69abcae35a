"""`/api/v1/files`: instances handed in as a form of files; `/dicomweb/studies` takes more, and while they come."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from iap_node.web.actions import files as actions
from iap_node.web.actions.files import FIELD, Uploaded
from iap_node.web.identity import Operator
from iap_node.web.node import Node

router = APIRouter(tags=["files"])

_FORM = {
    "type": "object",
    "required": [FIELD],
    "properties": {FIELD: {"type": "array", "minItems": 1, "items": {"type": "string", "format": "binary"}}},
}
_BODY: dict[str, Any] = {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _FORM}}}}


@router.post("/files", openapi_extra=_BODY)
async def file(request: Request, node: Node, operator: Operator) -> Uploaded:
    """File what came, through the same archive and queue as C-STORE, and tell what became of it."""
    return await actions.upload(request, node, operator)
