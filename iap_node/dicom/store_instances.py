"""The Store Instances Response of STOW-RS: what an answer says of each instance (PS3.18 section 10.5.3).

Made of what the listener's room did (`iap_node.listener.stow`), answered by `iap_node.web.dicomweb`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from iap_node.dicom.status import is_accepted, is_permanent

# A9xx, since the instance is not of the study that the request names. PS3.18 has no number of its own for it.
STUDY_MISMATCH = 0xA901


@dataclass(frozen=True, slots=True)
class PartStatus:
    """What became of one part of a request."""

    status: int  # of C-STORE (PS3.4 Table B.2-1), which Failure Reason (0008,1197) takes its values from
    why: str = ""  # for the log; the response has no place for text
    sop_class_uid: str = ""
    sop_instance_uid: str = ""  # both "" where it cannot be said

    @property
    def stored(self) -> bool:
        """Whether it is here, and would be after a power cut."""
        return is_accepted(self.status)


def http_status(parts: Sequence[PartStatus]) -> HTTPStatus:
    """The status of the answer to a request that was read to its end (PS3.18 Table 10.5.3-1).

    503 where nothing was stored and the same may be sent again; 409 where some of it would fail again.
    """
    failed = [one for one in parts if not one.stored]
    if not failed:
        return HTTPStatus.OK
    if len(failed) < len(parts):
        return HTTPStatus.ACCEPTED
    if any(is_permanent(one.status) for one in failed):
        return HTTPStatus.CONFLICT
    return HTTPStatus.SERVICE_UNAVAILABLE


def store_instances_response(parts: Sequence[PartStatus]) -> dict[str, Any]:
    """The Store Instances Response Module (PS3.18 section I.2) in the DICOM JSON Model (Annex F).

    Retrieve URLs are empty: nothing is retrieved here. What cannot be named stands in Other Failures Sequence.
    """
    stored = [_item(one) | {"00081190": {"vr": "UR"}} for one in parts if one.stored]
    failed = [_item(one) | _reason(one) for one in parts if not one.stored and one.sop_instance_uid]
    others = [_reason(one) for one in parts if not one.stored and not one.sop_instance_uid]
    response: dict[str, Any] = {"00081190": {"vr": "UR"}}
    for tag, items in (("00081198", failed), ("00081199", stored), ("0008119A", others)):
        if items:
            response[tag] = {"vr": "SQ", "Value": items}
    return response


def _item(one: PartStatus) -> dict[str, Any]:
    return {
        "00081150": {"vr": "UI", "Value": [one.sop_class_uid]},
        "00081155": {"vr": "UI", "Value": [one.sop_instance_uid]},
    }


def _reason(one: PartStatus) -> dict[str, Any]:
    return {"00081197": {"vr": "US", "Value": [int(one.status)]}}


