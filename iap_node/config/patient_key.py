"""The node's secret that keys the hashes of patients: made once, readable by its owner only.

Called by `iap_node.listener.patients`, and by the worker, whose pseudonyms are made with it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from iap_node.errors import ConfigError

KEY_BYTES = 32


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
