"""Instances on their way out, and their files as they leave: Part 10, with an empty preamble.

What the spool writes into preambles is its own and stays here. Called by all destinations; C-STORE sends data sets
without their files' heads (`store`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO, Literal, Protocol

from iap_node.dicom.part10 import read_file_meta, scan_instance_header
from iap_node.errors import UnreadableInstance
from iap_node.records import InstanceDelivery, InstanceHeader

PREAMBLE_BYTES = 128  # PS3.10 section 7.1
CHUNK_BYTES = 1024**2


class ReadableFile(Protocol):
    """A Part 10 file that can be read: one of the spool, or a corrected copy that is made while it is read."""

    def open(self, mode: Literal["rb"]) -> BinaryIO:
        """A stream of its own, at the file's start."""


@dataclass(frozen=True, slots=True)
class OutgoingInstance:
    """One instance on its way to a destination."""

    instance_id: int  # of the archive's row, also where a corrected copy goes
    sop_class_uid: str
    sop_instance_uid: str  # of what is sent
    transfer_syntax_uid: str
    file: ReadableFile


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
