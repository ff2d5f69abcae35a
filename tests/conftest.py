"""Fixtures shared by all tests: the real corpus, the partners on this machine, a PostgreSQL server of our own."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
MR_REAL = REPOSITORY.parent / "shared" / "data" / "mr-real"


@pytest.fixture(scope="session")
def mr_real() -> Path:
    """Folder of the 39 real MR series (read-only)."""
    if not MR_REAL.is_dir():
        pytest.skip(f"the real MR corpus is not at {MR_REAL}; put it there to run this test")
    return MR_REAL


@pytest.fixture(scope="session")
def program() -> Callable[[str, str], str]:
    """Finds a program that a test drives: `program("storescu", "dcmtk")`; skips with what to install when absent."""

    def find(name: str, debian_package: str) -> str:
        path = shutil.which(name)
        if path is None:
            pytest.skip(f"{name} is not installed; apt-get install {debian_package}")
        return path

    return find
