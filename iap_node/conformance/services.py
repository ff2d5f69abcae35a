"""What the node offers and asks for, by Application Entity: of the tables that listener and pull work by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from iap_node.dicom.commitment import STORAGE_COMMITMENT_PUSH_MODEL
from iap_node.dicom.query import STUDY_ROOT_FIND
from iap_node.listener.admission import NATIVE, VERIFICATION
from iap_node.pull.retrieve import STUDY_ROOT_GET, STUDY_ROOT_MOVE

LISTENER, DELIVERY, PULL = "LISTENER", "DELIVERY", "PULL"


@dataclass(frozen=True, slots=True)
class Service:
    """A SOP Class other than those of storage, and which AEs have which role."""

    sop_class_uid: str
    scp: str = ""  # the AE that offers it
    scu: str = ""  # the AE that asks for it
    note: str = ""


SERVICES: Final = (
    Service(VERIFICATION, scp=LISTENER, scu=DELIVERY),
    Service(STORAGE_COMMITMENT_PUSH_MODEL, scp=LISTENER),
    Service(STUDY_ROOT_FIND, scp=LISTENER, scu=PULL),
    Service(STUDY_ROOT_MOVE, scu=PULL),
    Service(STUDY_ROOT_GET, scu=PULL, note="with the SCP role for storage SOP Classes"),
)
SERVICE_TRANSFER_SYNTAXES: Final = NATIVE
