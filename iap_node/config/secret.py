"""Secrets that stand in files of their own, not in config.yaml, and what is signed with them.

Read anew for each use, so that a changed one counts at once. Called by notifications and destinations.
"""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

from iap_node.errors import ConfigError

LONGEST_SECRET = 4096
TIMESTAMP_HEADER = "IAP-Node-Timestamp"  # seconds since the epoch
SIGNATURE_HEADER = "IAP-Node-Signature"


def read_secret(path: Path, key: str) -> str:
    """The content of a file, without the end of its line.

    Raises
    ------
    ConfigError
        It cannot be read, is empty, or others can read it.
    """
    try:
        mode = path.stat().st_mode & 0o777
        with path.open("rb") as stream:
            secret = stream.read(LONGEST_SECRET).decode("utf-8", "replace").rstrip("\r\n")
    except OSError as error:
        raise ConfigError(f"{key}: cannot read {path}: {error.strerror}") from error
    if mode & 0o007:
        raise ConfigError(f"{key}: everybody can read {path}: chmod o-rwx {path}")
    if not secret:
        raise ConfigError(f"{key}: {path} is empty")
    return secret


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """HMAC-SHA256 (RFC 2104) of a body sent at a time, in hexadecimal digits."""
    return hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()
