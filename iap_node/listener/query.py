"""C-FIND as an SCP: what the node holds, at STUDY, SERIES and IMAGE level of the Study Root (PS3.4 C.4.1, C.6.2).

Called by `handlers`. Matches are read in pages, so that no transaction is open while a peer takes its time, and are
sent no faster than the peer takes them; between them it is looked whether the peer cancels.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any, cast

import structlog
from pydicom.datadict import dictionary_VM, dictionary_VR
from pydicom.dataset import Dataset
from pynetdicom import evt
from pynetdicom.association import Association

from iap_node.config import QueryConfig
from iap_node.database.engine import Database
from iap_node.database.query import find
from iap_node.dicom.query import STUDY_ROOT_FIND, FindStatus, Query, UnanswerableQuery, read_query
from iap_node.errors import RetriableError, where
from iap_node.listener.intake import Intake

PAGE = 200  # matches
MOST_WAITING_PDUS = 64  # in pynetdicom's queue, which has no limit of its own
WAIT_S = 0.005
ROWS_WITHIN_S = 2.0  # for the rows of what was acknowledged a moment ago
MAX_COMMENT = 64
UTF_8 = "ISO_IR 192"  # PS3.3 C.12.1.1.2
RELATIONAL = b"\x01"  # extended negotiation: relational-queries (PS3.4 C.5.1.1.1)
_SHORT_VRS = {"CS": 16, "SH": 16, "LO": 64}

Answer = tuple[int | Dataset, Dataset | None]

log = structlog.get_logger("query")


class Finder:
    """Answers C-FIND requests of one listener."""

    def __init__(self, config: QueryConfig, database: Database, intake: Intake) -> None:
        self._config = config
        self._database = database
        self._intake = intake

    def on_extended_negotiation(self, event: evt.Event) -> dict[str, bytes]:
        """Relational queries are what every query is here (PS3.4 C.5.1.1)."""
        proposed = cast("dict[str, bytes]", cast(Any, event).app_info)
        return {STUDY_ROOT_FIND: RELATIONAL} if STUDY_ROOT_FIND in proposed else {}

    def on_c_find(self, event: evt.Event) -> Iterator[Answer]:
        """Answer a query: the matches, one by one, then pynetdicom's Success."""
        assoc = event.assoc
        calling_ae_title = str(assoc.requestor.ae_title).strip()
        started_at_s = time.monotonic()
        n_matches, level, ending = 0, "", "done"
        try:
            query = read_query(event.identifier)
            level = query.level.value
            status = FindStatus.PENDING_KEYS_NOT_SUPPORTED if query.ignored else FindStatus.PENDING
            self._intake.flush(ROWS_WITHIN_S)
            for values in self._matches(query):
                if n_matches == self._config.max_results:
                    ending = "too many"
                    yield _failure(FindStatus.OUT_OF_RESOURCES, "More matches than query.max_results; narrow the query")
                    return
                if not _ready_for_more(assoc):
                    ending = "the association ended"
                    return
                if event.is_cancelled:
                    ending = "cancelled"
                    yield int(FindStatus.CANCEL), None
                    return
                yield int(status), write_match(query, values)
                n_matches += 1
        except UnanswerableQuery as error:
            ending = str(error)
            yield _failure(FindStatus.IDENTIFIER_MISMATCH, str(error), error.offending)
        except RetriableError as error:
            log.error("query not answered", calling_ae_title=calling_ae_title, error=str(error))
            ending = "the database does not work"
            yield _failure(FindStatus.OUT_OF_RESOURCES, "The archive cannot be asked now; try again later")
        except Exception as error:  # noqa: BLE001 - an edge: hostile identifiers; the message may quote them
            log.error("query not answered", calling_ae_title=calling_ae_title, error=where(error))
            ending = "failed"
            yield _failure(FindStatus.UNABLE_TO_PROCESS, "The identifier cannot be read")
        finally:
            log.info(
                "query", query_level=level, n_matches=n_matches, ending=ending, calling_ae_title=calling_ae_title,
                duration_s=round(time.monotonic() - started_at_s, 3),
            )  # fmt: skip

    def _matches(self, query: Query) -> Iterator[dict[str, Any]]:
        after_id = 0
        while True:
            with self._database.reading() as session:
                page = find(session, query, after_id, PAGE)
            for _, values in page:
                yield values
            if len(page) < PAGE:
                return
            after_id = page[-1][0]


def write_match(query: Query, values: dict[str, Any]) -> Dataset:
    """The identifier of a response: every key that was asked for, empty where nothing is known."""
    ds = Dataset()
    ds.QueryRetrieveLevel = query.level.value
    for keyword in query.wanted:
        value = values.get(keyword)
        vr = dictionary_VR(keyword).partition(" or ")[0]  # an empty value has none of several
        is_empty = value is None or value == "" or value == []
        ds.add_new(keyword, vr, ([] if vr == "SQ" else None) if is_empty else _written(keyword, vr, value))
    if not all(str(values.get(keyword, "")).isascii() for keyword in query.wanted):
        ds.SpecificCharacterSet = UTF_8
    return ds


def _written(keyword: str, vr: str, value: Any) -> Any:
    """A value as its VR takes it. Headers hold longer ones; a response that a peer refuses would help nobody."""
    if vr == "US":
        return value if 0 <= value < 65536 else None
    if not isinstance(value, str):
        return value
    parts = value.split("\\") if dictionary_VM(keyword) != "1" else [value.replace("\\", "/")]
    longest = _SHORT_VRS.get(vr)
    return [part[:longest] for part in parts] if len(parts) > 1 else parts[0][:longest]


def _ready_for_more(assoc: Association) -> bool:
    """Wait until the peer has taken most of what was sent; False: the association is over."""
    look = getattr(assoc.dimse, "look", None)  # pynetdicom's own takes in what comes by itself
    while True:
        if look is not None and not look():
            return False
        if assoc.acse.is_aborted() or not assoc.is_established or not assoc.dul.is_alive():
            return False
        assoc.dul._idle_timer.restart()  # the peer waits for us
        if assoc.dul.to_provider_queue.qsize() < MOST_WAITING_PDUS:
            return True
        time.sleep(WAIT_S)


def _failure(status: FindStatus, comment: str, offending: int | None = None) -> Answer:
    ds = Dataset()
    ds.Status = int(status)
    ds.ErrorComment = re.sub(r"[^\x20-\x5b\x5d-\x7e]", "?", comment)[:MAX_COMMENT].rstrip()
    if offending is not None:
        ds.OffendingElement = [offending]
    return ds, None
