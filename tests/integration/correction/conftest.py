"""Instances to file, as the unit tests make them."""

from tests.unit.correction.conftest import write

__all__ = ["write"]
