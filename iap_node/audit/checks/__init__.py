"""Checks on the header itself: what must hold by the standard, by physics, and between elements.

`check_series` takes what `iap_node.dicom.statements.read_statements` read of each instance. Pure functions: nothing
here reads files, knows a database or looks at pixel values.
"""

from iap_node.audit.checks.check import Check, Scope
from iap_node.audit.checks.registry import CHECKS, check_series

__all__ = ["CHECKS", "Check", "Scope", "check_series"]
