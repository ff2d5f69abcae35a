"""Keyed hashes that stand for patients, and the key. Called by `intake` and by the commands that make the
key.

The archive needs to know which studies are of one patient (data must be split by patient, never by image),
and must not know who that is. HMAC-SHA256 under a secret of the node gives the first; without the secret
nobody can try patient numbers one after the other, which a bare hash would allow.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
from functools import lru_cache
from pathlib import Path

from iap_node.errors import ConfigError
from iap_node.records import InstanceHeader

KEY_BYTES = 32


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


def load_or_create_patient_key(path: Path) -> bytes:
    """The secret of this node, made when it is not there yet; readable by its owner only.

    Several processes may start at once: one makes the key, all get the same.

    Raises
    ------
    ConfigError
        The file cannot be read or made, is too short, or others can read it.
    """
    try:
        if not path.exists():
            _create(path)
        mode = path.stat().st_mode & 0o777
        key = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot use the patient key {path}: {error.strerror}; check who owns its folder") from error
    if mode & 0o077:
        raise ConfigError(f"others can read the patient key {path}: chmod 600 {path}")
    if len(key) < KEY_BYTES:
        raise ConfigError(
            f"the patient key {path} has {len(key)} bytes, not {KEY_BYTES}: restore it from a backup "
            "(a new one would give every patient another hash)"
        )
    return key


def _create(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(handle, secrets.token_bytes(KEY_BYTES))
        os.fsync(handle)
        with contextlib.suppress(FileExistsError):  # another process was first: its key counts
            os.link(temporary, path)
    finally:
        os.close(handle)
        temporary.unlink()
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
