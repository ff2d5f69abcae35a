"""Statuses of the C-STORE service (PS3.4 Table B.2-1) and of the DIMSE protocol (PS3.7 Annex C).

Called by the listener, which answers them, and by the DICOM destination, which reads them.
"""

from __future__ import annotations

from enum import IntEnum


class StoreStatus(IntEnum):
    """What a C-STORE-RSP says. The values of PS3.4 Table B.2-1 are the first ones of their ranges."""

    SUCCESS = 0x0000
    INVALID_SOP_INSTANCE = 0x0117  # PS3.7 C.5.11
    PROCESSING_FAILURE = 0x0110  # PS3.7 C.5.16
    DUPLICATE_SOP_INSTANCE = 0x0111  # PS3.7 C.5.6
    SOP_CLASS_NOT_SUPPORTED = 0x0122  # PS3.7 C.5.21
    NOT_AUTHORIZED = 0x0124  # PS3.7 C.5.23
    DUPLICATE_INVOCATION = 0x0210  # PS3.7 C.5.7
    UNRECOGNIZED_OPERATION = 0x0211  # PS3.7 C.5.24
    MISTYPED_ARGUMENT = 0x0212  # PS3.7 C.5.15
    RESOURCE_LIMITATION = 0x0213  # PS3.7 C.5.20
    OUT_OF_RESOURCES = 0xA700  # Refused, A7xx
    SOP_CLASS_MISMATCH = 0xA900  # Error: the data set does not match the SOP Class, A9xx
    COERCION_OF_DATA_ELEMENTS = 0xB000  # Warning
    ELEMENTS_DISCARDED = 0xB006  # Warning
    DATA_SET_MISMATCH_WARNING = 0xB007  # Warning: stored although the data set does not match the SOP Class
    CANNOT_UNDERSTAND = 0xC000  # Error, Cxxx


_WARNINGS_OF_PS37 = frozenset({0x0001, 0x0107, 0x0116})  # PS3.7 Annex C: warning class
_PERMANENT = frozenset(
    {
        StoreStatus.INVALID_SOP_INSTANCE,
        StoreStatus.SOP_CLASS_NOT_SUPPORTED,
        StoreStatus.NOT_AUTHORIZED,
        StoreStatus.UNRECOGNIZED_OPERATION,
        StoreStatus.MISTYPED_ARGUMENT,
    }
)


def is_accepted(status: int) -> bool:
    """Whether the peer keeps the instance: Success, or a warning (Bxxx and those of PS3.7 Annex C)."""
    return status == StoreStatus.SUCCESS or status >> 12 == 0xB or status in _WARNINGS_OF_PS37


def is_permanent(status: int) -> bool:
    """Whether sending the same instance again cannot help: A9xx, Cxxx, and refusals of its class or identity.

    Out of resources (A7xx), processing failure (0110H) and unknown statuses may pass and are not permanent.
    """
    return status >> 8 == 0xA9 or status >> 12 == 0xC or status in _PERMANENT
