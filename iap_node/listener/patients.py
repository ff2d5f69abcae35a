"""Keyed hashes that stand for patients. Called by `intake`; commands make the key (`iap_node.config.patient_key`).

The archive needs to know which studies are of one patient (data must be split by patient, never by image),
and must not know who that is. HMAC-SHA256 under a secret of the node gives the first; without the secret
nobody can try patient numbers one after the other, which a bare hash would allow.
"""

from __future__ import annotations

import hashlib
import hmac
from functools import lru_cache

from iap_node.config.patient_key import KEY_BYTES as KEY_BYTES
from iap_node.config.patient_key import load_or_create_patient_key as load_or_create_patient_key
from iap_node.records import InstanceHeader


def patient_hash(key: bytes, header: InstanceHeader) -> str:
    """The keyed hash, 64 hexadecimal digits, of the patient of an instance.

    Patient ID (0010,0020) is unique within its Issuer (0010,0021), so both count. Without a Patient ID
    nothing says that two studies are of one person, or of two: each study then counts as a patient of its
    own, which at worst keeps a person's studies apart.
    """
    patient_id, issuer = header.patient_id.strip(), header.issuer_of_patient_id.strip()
    identity = ("patient", issuer, patient_id) if patient_id else ("study", header.study_instance_uid)
    return _hash(key, "\0".join(identity))


@lru_cache(256)  # all instances of a study have one
def _hash(key: bytes, identity: str) -> str:
    return hmac.new(key, identity.encode(), hashlib.sha256).hexdigest()
