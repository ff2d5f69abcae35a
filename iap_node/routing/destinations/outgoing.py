"""Instances on their way out, and their files as they leave: Part 10, with an empty preamble.

What the spool writes into preambles is its own and stays here. Called by all destinations; C-STORE sends data sets
without their files' heads (`store`). What a peer takes only uncompressed is decompressed when it is opened.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import BinaryIO, Literal, Protocol

from iap_node.dicom.part10 import read_file_meta, scan_instance_header
from iap_node.dicom.sop_classes import transfer_syntax_name
from iap_node.dicom.transcoding import TARGETS, can_transcode, transcoded
from iap_node.errors import UnreadableInstance, UnreadablePixels, UnsendableInstance
from iap_node.records import InstanceDelivery, InstanceHeader

PREAMBLE_BYTES = 128  # PS3.10 section 7.1
CHUNK_BYTES = 1024**2
MOST_DECODED_BYTES = 2 * 1024**3  # of one instance, where no configuration says otherwise


class ReadableFile(Protocol):
    """A Part 10 file that can be read: one of the spool, or a copy that is made while it is read."""

    def open(self, mode: Literal["rb"]) -> BinaryIO:
        """A stream of its own, at the file's start.

        Raises
        ------
        UnsendableInstance
            The copy cannot be made, or must not be.
        """


@dataclass(frozen=True, slots=True)
class OutgoingInstance:
    """One instance on its way to a destination."""

    instance_id: int  # of the archive's row, also where a corrected copy goes
    sop_class_uid: str
    sop_instance_uid: str  # of what is sent
    transfer_syntax_uid: str
    file: ReadableFile
    most_decoded_bytes: int = MOST_DECODED_BYTES  # where it must be decompressed


@dataclass(frozen=True, slots=True)
class TranscodedFile:
    """A file in another transfer syntax, made in memory when it is opened."""

    stored: OutgoingInstance
    transfer_syntax_uid: str

    def open(self, mode: Literal["rb"]) -> BinaryIO:
        """The file, complete.

        Raises
        ------
        UnsendableInstance
            It cannot be decoded.
        UnreadableInstance, OSError
            The stored file is damaged, gone or cannot be read.
        """
        stored = self.stored
        try:
            return transcoded(stored.file, self.transfer_syntax_uid, stored.most_decoded_bytes)
        except UnreadablePixels as error:
            raise UnsendableInstance(
                f"the peer refuses {in_words(stored.transfer_syntax_uid)}, and the instance cannot be decompressed: "
                f"{error}; or allow that transfer syntax there"
            ) from error


def syntaxes(instance: OutgoingInstance, *, transcode: bool) -> tuple[str, ...]:
    """The transfer syntaxes that an instance can be sent in, the stored one first."""
    stored = instance.transfer_syntax_uid
    if not transcode or not can_transcode(stored):
        return (stored,)
    return (stored, *(target for target in TARGETS if target != stored))


def in_syntax(instance: OutgoingInstance, transfer_syntax_uid: str) -> OutgoingInstance:
    """An instance as it is sent in one of its `syntaxes`."""
    if transfer_syntax_uid == instance.transfer_syntax_uid:
        return instance
    file = TranscodedFile(instance, transfer_syntax_uid)
    return replace(instance, transfer_syntax_uid=transfer_syntax_uid, file=file)


def in_words(transfer_syntax_uid: str) -> str:
    """A transfer syntax for people who look for it in a table of either kind."""
    name = transfer_syntax_name(transfer_syntax_uid)
    return f"transfer syntax {transfer_syntax_uid}" + (f" ({name})" if name != transfer_syntax_uid else "")


class NotReadable(Exception):
    """An instance's own file cannot be read; `answer` says what becomes of it."""

    def __init__(self, answer: InstanceDelivery) -> None:
        super().__init__(answer.comment)
        self.answer = answer


@contextmanager
def source_errors(instance: OutgoingInstance) -> Iterator[None]:
    """Turn what is wrong with an instance's own file into its answer.

    Raises
    ------
    NotReadable
    """
    try:
        yield
    except FileNotFoundError as error:
        raise NotReadable(refused(instance, "its spool file is gone; send the series again")) from error
    except UnreadableInstance as error:
        raise NotReadable(refused(instance, f"its spool file is damaged: {error}")) from error
    except UnsendableInstance as error:
        raise NotReadable(refused(instance, str(error))) from error
    except OSError as error:
        raise NotReadable(unanswered(instance, f"its spool file cannot be read: {error.strerror}")) from error


def header_of(instance: OutgoingInstance) -> InstanceHeader:
    """The header of what is sent.

    Raises
    ------
    NotReadable
        The file is gone or damaged, or is another instance's.
    """
    with source_errors(instance), instance.file.open("rb") as stream:
        header = scan_instance_header(stream, read_file_meta(stream))
        if header.sop_instance_uid != instance.sop_instance_uid:
            raise UnreadableInstance(f"it holds instance {header.sop_instance_uid}")
        return header


def file_chunks(instance: OutgoingInstance) -> Iterator[bytes]:
    """The Part 10 file of an instance, a megabyte at most at a time.

    Raises
    ------
    NotReadable
    """
    with source_errors(instance):
        stream = instance.file.open("rb")
    with stream:
        with source_errors(instance):
            head = stream.read(PREAMBLE_BYTES + 4)
            if head[PREAMBLE_BYTES:] != b"DICM":
                raise UnreadableInstance("it is no Part 10 file")
        yield bytes(PREAMBLE_BYTES) + b"DICM"
        while True:
            with source_errors(instance):
                chunk = stream.read(CHUNK_BYTES)
            if not chunk:
                return
            yield chunk


def delivered(instance: OutgoingInstance, comment: str = "", status: int | None = None) -> InstanceDelivery:
    """It is there."""
    return InstanceDelivery(instance.instance_id, accepted=True, status=status, comment=comment)


def refused(instance: OutgoingInstance, comment: str, status: int | None = None) -> InstanceDelivery:
    """It is not there, and trying again cannot help."""
    return InstanceDelivery(instance.instance_id, accepted=False, status=status, comment=comment, permanent=True)


def unanswered(instance: OutgoingInstance, comment: str, status: int | None = None) -> InstanceDelivery:
    """It is not there, and trying again may help."""
    return InstanceDelivery(instance.instance_id, accepted=False, status=status, comment=comment)
