"""The error classes of the node. The class decides what a job does next.

A `RetriableError` puts a job back with back-off; a `PermanentError` ends it with its reason. Everything that the
node raises on purpose is one of the two.
"""


class NodeError(Exception):
    """Base of every error that the node raises on purpose. Its text names the UID and the remedy."""


class PermanentError(NodeError):
    """Trying again cannot help: the input or the configuration must change first."""


class RetriableError(NodeError):
    """Trying again later may help: a peer, a disk or a database was not there."""


class ConfigError(PermanentError):
    """The configuration is not usable. The text names the key and what would be right."""


class UnreadableInstance(PermanentError):
    """The bytes are not a DICOM instance that can be identified; it goes to the quarantine with this reason."""


class UnreadablePixels(PermanentError):
    """The instance is known, but its pixel data cannot be decoded or must not be allocated."""


class UnsendableInstance(PermanentError):
    """An instance that is here and whole cannot, or must not, be sent in the form that a destination asks for."""


class ModelPackageError(PermanentError):
    """A model package is missing, incomplete or damaged."""


class DeliveryError(RetriableError):
    """A destination did not take a series now."""


class LeaseLost(NodeError):
    """The job was leased to somebody else meanwhile; this worker's results must not be written."""


def where(error: BaseException) -> str:
    """The class of an error and the innermost place it came from, without its message."""
    trace = error.__traceback__
    place = "unknown"
    while trace is not None:
        place = f"{trace.tb_frame.f_globals.get('__name__', '?')}:{trace.tb_lineno}"
        trace = trace.tb_next
    return f"{type(error).__name__} at {place}"
