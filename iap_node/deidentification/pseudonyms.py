"""What stands in place of UIDs, patients and dates: keyed hashes, the same in every delivery of this node.

Two series of a study get one Study Instance UID, two studies of a patient one Patient ID, and a late instance joins
those that were sent before it. Nothing is kept: without the node's key nobody can try identities one after the other,
which bare hashes would allow. Called by `copies` and `iap_node.worker.consignment`.

References
----------
PS3.15 E.1.1 (internal consistency), E.3.6 (modified dates); PS3.5 B.2 (UIDs from UUIDs); RFC 9562 section 5.8 (UUIDv8);
RFC 2104 (HMAC).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import uuid
from dataclasses import dataclass
from datetime import date, timedelta

_PREFIX = "2.25."
_STANDARD_ROOT = "1.2.840.10008."  # well-known instances and frames of reference identify nobody
_PURPOSE = b"IAP node, de-identification"
_MOST_DAYS = 3652  # ten years
_DATE = re.compile(r"([0-9]{4})\.?([0-9]{2})\.?([0-9]{2})(.*)", re.ASCII | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Pseudonyms:
    """Of one node; `key` is derived from its patient key, so that hashes of the archive tell nothing of these."""

    key: bytes

    @classmethod
    def of_node(cls, patient_key: bytes) -> Pseudonyms:
        """Under a key of their own."""
        return cls(hmac.digest(patient_key, _PURPOSE, hashlib.sha256))

    def uid(self, uid: str) -> str:
        """What a UID becomes; one of the standard's own, and none, stay."""
        if not uid or uid.startswith(_STANDARD_ROOT):
            return uid
        digest = bytearray(self._digest("uid", uid)[:16])
        digest[6], digest[8] = digest[6] & 0x0F | 0x80, digest[8] & 0x3F | 0x80
        return f"{_PREFIX}{uuid.UUID(bytes=bytes(digest)).int}"

    def patient(self, identity: str) -> str:
        """Patient ID and Patient's Name in the copies, 16 letters and digits."""
        return base64.b32encode(self._digest("patient", identity)[:10]).decode("ascii")

    def days(self, identity: str) -> int:
        """By how many days the dates of a patient move into the past."""
        return 1 + int.from_bytes(self._digest("days", identity)[:8], "big") % _MOST_DAYS

    def _digest(self, kind: str, text: str) -> bytes:
        return hmac.digest(self.key, f"{kind}\0{text}".encode(), hashlib.sha256)


def identity_of(patient_id: str, issuer: str, study_instance_uid: str) -> str:
    """Who a patient is; without a Patient ID each study is a patient of its own."""
    if patient_id.strip():
        return "\0".join(("patient", issuer.strip(), patient_id.strip()))
    return f"study\0{study_instance_uid}"


def shifted(text: str, days: int) -> str:
    """Dates (VR DA, DT) so many days earlier, what stands behind the day as it is; "" for what is no date."""
    moved = []
    for one in text.split("\\"):
        found = _DATE.fullmatch(one.strip(" \0"))
        try:
            if found is None:
                raise ValueError
            day = date(int(found[1]), int(found[2]), int(found[3])) - timedelta(days=days)
        except (ValueError, OverflowError):
            moved.append("")
            continue
        rest = found[4]
        moved.append(f"{day:%Y%m%d}{rest}" if re.fullmatch(r"[0-9.+-]*", rest, re.ASCII) else "")
    return "\\".join(moved)
