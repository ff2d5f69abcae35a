"""The UIDs of a corrected copy: made from those of the original and from what was corrected, always the same.

A run that is repeated, on this machine or another, makes the same copies; other values make other copies. Called by
`copies` and by whoever names them. Source: PS3.5 section B.2 (UIDs from UUIDs), RFC 9562 (UUIDs from names).
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from iap_node.dicom.part10 import IMPLEMENTATION_CLASS_UID

_PREFIX = "2.25."
_NAMESPACE = uuid.UUID(int=int(IMPLEMENTATION_CLASS_UID.removeprefix(_PREFIX)))


@dataclass(frozen=True, slots=True)
class CopyUids:
    """What the instances of one series are called in one corrected copy of it."""

    fingerprint: str  # of what is corrected
    series_instance_uid: str  # of the original
    sop_instance_uids: frozenset[str]  # of all its instances: references to them follow

    def copied(self, uid: str) -> str:
        """The UID in the copy of what `uid` names in the original."""
        return f"{_PREFIX}{uuid.uuid5(_NAMESPACE, f'{self.fingerprint}/{uid}').int}"

    def referred(self, uid: str) -> str | None:
        """What a reference within the series becomes; None for one that leads out of it, which stays."""
        return self.copied(uid) if uid in self.sop_instance_uids or uid == self.series_instance_uid else None
