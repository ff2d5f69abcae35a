"""What all destinations have in common: they take instances, and can be tried without sending any.

`open_destination` makes the one that a section of the configuration describes. Called by `iap_node.worker.deliver`, by
the command `echo` and by the console.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from iap_node.config.destinations import (
    AnyDestination,
    DestinationConfig,
    DicomwebConfig,
    FolderConfig,
    ObjectStorageConfig,
    ResultWebhookConfig,
)
from iap_node.errors import PermanentError
from iap_node.records import InstanceDelivery
from iap_node.routing.destinations.outgoing import OutgoingInstance

Message = Callable[[], dict[str, Any]]  # the result of the series that is sent, as JSON values


class Destination(Protocol):
    """Where series go."""

    def send(self, instances: Sequence[OutgoingInstance]) -> list[InstanceDelivery]:
        """Send instances; what became of each, in order. What was sent before changes nothing there.

        Raises
        ------
        DeliveryError
            None was offered, and trying again may help.
        PermanentError
            None was offered, and trying again cannot help.
        """

    def echo(self) -> None:
        """Whether the destination can be reached, knows us and would take something; nothing is left there.

        Raises
        ------
        DeliveryError
            It cannot, with the remedy.
        PermanentError
            The configuration is wrong, or it refuses us for good.
        """


def open_destination(config: AnyDestination, message: Message | None = None) -> Destination:
    """The destination of a section of the configuration.

    Parameters
    ----------
    message
        What a webhook is told; None where nothing is to be sent.
    """
    if isinstance(config, DestinationConfig):
        from iap_node.routing.destinations.dicom import DicomDestination

        return DicomDestination(config)
    if isinstance(config, FolderConfig):
        from iap_node.routing.destinations.folder import FolderDestination

        return FolderDestination(config)
    if isinstance(config, DicomwebConfig):
        from iap_node.routing.destinations.dicomweb import DicomwebDestination

        return DicomwebDestination(config)
    if isinstance(config, ObjectStorageConfig):
        from iap_node.routing.destinations.objects import ObjectStorageDestination

        return ObjectStorageDestination(config)
    assert isinstance(config, ResultWebhookConfig)
    from iap_node.routing.destinations.webhook import WebhookDestination

    return WebhookDestination(config, message or _no_message)


def _no_message() -> dict[str, Any]:
    raise PermanentError("a webhook is told results, and there is none here")
