"""Passwords and random tokens, and what of them may be stored.

Passwords: argon2id with argon2-cffi's defaults (RFC 9106, low-memory profile). Tokens have 256 random bits, so that a
plain SHA-256 of them tells nothing.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
from functools import cache

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

SHORTEST_PASSWORD = 12
LONGEST_PASSWORD = 256  # hashing is meant to be slow: nobody may make it slower
_ONE_TIME_BYTES = 12

_hasher = PasswordHasher()
_hashing = threading.BoundedSemaphore(2)  # each takes 64 MiB


def hash_password(password: str) -> str:
    """What is stored of a password."""
    return _hasher.hash(password)


def is_password(password_hash: str | None, password: str) -> bool:
    """Whether the password is right; takes as long where there is none to compare with."""
    with _hashing:
        return _verified(password_hash, password)


def _verified(password_hash: str | None, password: str) -> bool:
    try:
        return _hasher.verify(password_hash or _nobodys(), password) and password_hash is not None
    except (VerificationError, InvalidHashError):
        return False


def why_refused(password: str) -> str | None:
    """Why a password is not good enough; None: it is."""
    if len(password) < SHORTEST_PASSWORD:
        return f"a password has at least {SHORTEST_PASSWORD} characters"
    if len(password) > LONGEST_PASSWORD:
        return f"a password has at most {LONGEST_PASSWORD} characters"
    if len(set(password)) < 5:
        return "a password has at least five different characters"
    return None


def new_token() -> str:
    """A random token of 256 bits, safe in URLs."""
    return secrets.token_urlsafe(32)


def one_time_password() -> str:
    """A password for the first sign-in, to be typed by hand."""
    return secrets.token_hex(_ONE_TIME_BYTES)


def hash_token(token: str) -> str:
    """What is stored of a token."""
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


@cache
def _nobodys() -> str:
    return _hasher.hash(secrets.token_hex())
