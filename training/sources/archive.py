"""The node's archive as a source: what it has judged, with what people and witnesses made of the headers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from iap_node.database import learning
from iap_node.database.engine import Database
from iap_node.database.learning import SettledSeries, StandingFinding
from iap_node.records import SeriesState
from iap_node.spool import Spool
from training.sources.series import SourceSeries, against_the_whole, left_out_labels

_SERIES_AT_ONCE = 200

NOVEL = "novel: unlike what the model at work was trained on"
GONE = "none of its instances is in the spool any more"
FAILED = "its judgement failed"


class ArchiveSource:
    """Series that the node is done with, by the order of their arrival.

    Parameters
    ----------
    since
        Only series whose newest revision was judged then or later; None: all.
    keep_out_open_findings
        Whether a value is no label where a finding stands against it; a dismissed finding stands against nothing, an
        accepted one does: the header is wrong.
    keep_novel
        Whether series that the model at work calls novel are learned from. They may be another part of the body, or
        what the model should learn next: the first model of an archive needs them, a later one mostly does not.
    """

    def __init__(
        self,
        database: Database,
        spool: Spool,
        since: datetime | None = None,
        keep_out_open_findings: bool = True,
        keep_novel: bool = False,
        images: str = "real MR series of a node's archive",
    ) -> None:
        self._database, self._spool, self._since, self._images = database, spool, since, images
        self._keep_out, self._keep_novel = keep_out_open_findings, keep_novel

    @property
    def images(self) -> str:
        """See `Source`."""
        return self._images

    @property
    def identity(self) -> str:
        """See `Source`; the archive may grow while a data set is made."""
        since = "" if self._since is None else f" since {self._since.isoformat()}"
        left_out = "left out" if self._keep_out else "kept"
        return f"archive{since}; open findings {left_out}; novel series {'kept' if self._keep_novel else 'dropped'}"

    def count(self) -> int:
        """See `Source`."""
        with self._database.reading() as session:
            return learning.count_settled(session, self._since)

    def series(self) -> Iterator[SourceSeries]:
        """See `Source`; no transaction is open while the caller works."""
        after = 0
        while True:
            with self._database.reading() as session:
                page = learning.settled_series(session, self._since, after, _SERIES_AT_ONCE)
                ids = [one.id for one in page]
                findings = learning.standing_findings(session, ids) if self._keep_out else {}
                paths = learning.learnable_spool_paths(session, ids)
            if not page:
                return
            for one in page:
                yield self._series(one, findings.get(one.id, ()), paths.get(one.id, ()))
            after = page[-1].id

    def _series(
        self, one: SettledSeries, findings: Sequence[StandingFinding], spool_paths: Sequence[str]
    ) -> SourceSeries:
        return SourceSeries(
            study_instance_uid=one.study_instance_uid,
            series_instance_uid=one.series_instance_uid,
            patient=one.patient_hash,
            files=tuple(self._spool.locate(path) for path in spool_paths),
            reference=f"archive series {one.id} revision {one.revision}",
            left_out=left_out_labels(findings),
            dropped_reason=self._why_dropped(one, findings, spool_paths),
        )

    def _why_dropped(
        self, one: SettledSeries, findings: Sequence[StandingFinding], spool_paths: Sequence[str]
    ) -> str | None:
        if one.state is SeriesState.FAILED:
            return FAILED
        if one.not_analysed_reason is not None:
            return f"not analysed: {one.not_analysed_reason}"
        if one.novel and not self._keep_novel:
            return NOVEL
        whole = against_the_whole(findings)
        if whole is not None:
            return f"an open finding against the whole header: {whole}"
        return None if spool_paths else GONE
