"""The SR document of one series of the archive: its result, whose it is, and the references to its instances.

Called by the worker's delivery, the command `result` and the API.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from iap_node.database.archive import current_instances
from iap_node.database.engine import Database
from iap_node.database.tables import BytesState
from iap_node.errors import RetriableError, UnreadableInstance
from iap_node.results.content import NoResult, SeriesResult, series_result
from iap_node.results.document import (
    COMPREHENSIVE_SR_STORAGE,
    Origin,
    ReferencedInstance,
    build_document,
    encode,
)
from iap_node.results.identity import Identity, read_identity
from iap_node.spool import Spool

IMPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2"
EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"


@dataclass(frozen=True, slots=True)
class SrDocument:
    """An SR document as a Part 10 file."""

    result: SeriesResult
    sop_instance_uid: str
    transfer_syntax_uid: str
    content: bytes = field(repr=False)  # of the file; patient and study are in it
    sop_class_uid: str = COMPREHENSIVE_SR_STORAGE


def sr_document(
    database: Database,
    spool: Spool,
    series_id: int,
    *,
    ae_title: str,
    max_inflated_bytes: int,
    revision: int | None = None,
    sent_uids: Mapping[int, str] | None = None,
    sent_series_instance_uid: str | None = None,
    transfer_syntax_uid: str = EXPLICIT_VR_LITTLE_ENDIAN,
) -> SrDocument:
    """The SR document of a series, always the same while nothing new is found out.

    Parameters
    ----------
    ae_title
        Of the node: the observer that the document names.
    max_inflated_bytes
        The most that the data set of an instance that came deflated may have.
    revision
        Of the series; None: the newest one that was judged.
    sent_uids, sent_series_instance_uid
        What the receiver knows the instances by, by their rows, where it has corrected copies; None: as they came.

    Raises
    ------
    UnknownSeries
    NoResult
        It has not been judged yet, or none of its instances is here any more to tell whose it is.
    RetriableError
        The spool cannot be read now.
    """
    with database.reading() as session:
        result = series_result(session, series_id, revision)
        instances = [one for one in current_instances(session, series_id) if one.revision <= result.revision]
    uids = sent_uids or {}
    here = [spool.locate(one.spool_path) for one in instances if one.bytes_state is BytesState.PRESENT]
    identity: Identity | None = None
    for file in here:
        try:
            identity = read_identity(file, max_inflated_bytes)
            break
        except (UnreadableInstance, FileNotFoundError):
            continue
        except OSError as error:
            raise RetriableError(f"the spool cannot be read now: {error.strerror or type(error).__name__}") from error
    if identity is None:
        raise NoResult(
            f"no instance of series {result.series_instance_uid} is here any more to tell whose it is; have it sent "
            "again, or take the result as JSON"
        )
    ds = build_document(
        result,
        Origin(
            identity=identity,
            series_instance_uid=sent_series_instance_uid or result.series_instance_uid,
            instances=[
                ReferencedInstance(one.sop_class_uid, uids.get(one.id, one.sop_instance_uid)) for one in instances
            ],
            ae_title=ae_title,
        ),
    )
    return SrDocument(result, str(ds.SOPInstanceUID), transfer_syntax_uid, encode(ds, transfer_syntax_uid))
