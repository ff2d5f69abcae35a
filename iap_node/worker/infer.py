"""Judge one complete series: pixels to prediction, all witnesses about its headers, and the route. The INFER handler.

Everything that is found out, and the DELIVER jobs that follow, is written in one transaction at the end. A series
without pixels for the model is judged too: it gets the reason instead of a prediction, and its headers are checked
all the same. Called by `iap_node.worker.loop`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import NamedTuple, Protocol

import numpy as np
import structlog
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from iap_node.audit.verdicts import compare
from iap_node.config import NodeConfig
from iap_node.database import archive, protocols, results, routes
from iap_node.database.archive import ArchivedInstance
from iap_node.database.engine import Database
from iap_node.database.tables import BytesState
from iap_node.dicom.file_slice import InstanceFile
from iap_node.dicom.header import read_series_header
from iap_node.dicom.pixels import read_series_slices
from iap_node.dicom.statements import InstanceStatements, read_header_and_statements
from iap_node.errors import UnreadableInstance, UnreadablePixels
from iap_node.records import Job, RoutingEvidence, SeriesHeader, SeriesPrediction, Witness
from iap_node.routing.rules_file import RulesFile
from iap_node.spool import Spool
from iap_node.worker.hearing import Hearing

MOST_REASONS = 3  # that a sentence lists when the instances of a series have different ones

log = structlog.get_logger("infer")


class Predictor(Protocol):
    """A model at work: `iap_node.inference.predictor.Predictor`, which would bring torch along."""

    @property
    def model_id(self) -> str:
        """Identity of the model package."""

    @property
    def training_data(self) -> str:
        """What the model learned from."""

    def predict(
        self, slices: Sequence[NDArray[np.generic]], alpha: float, header: SeriesHeader | None = None
    ) -> SeriesPrediction:
        """The answer for one series from slices (rows, columns), and how well its header fits it as a whole."""


class _Answer(NamedTuple):
    """A prediction, or the reason why there is none; and the instances that could not be used."""

    prediction: SeriesPrediction | None
    reason: str | None
    problems: list[tuple[int, str]]


class _Headers(NamedTuple):
    """What was read of each instance, by its row, and the instances whose headers are damaged."""

    read: dict[int, tuple[Dataset, InstanceStatements]]
    problems: list[tuple[int, str]]

    def datasets(self, instances: Sequence[ArchivedInstance]) -> list[Dataset]:
        """Of these instances, in their order."""
        return [self.read[instance.id][0] for instance in instances if instance.id in self.read]

    def statements(self) -> list[InstanceStatements]:
        """Of all that could be read."""
        return [statements for _, statements in self.read.values()]


class InferHandler:
    """Handles INFER jobs.

    Parameters
    ----------
    predictor
        One model, or the one that is champion at the moment (`iap_node.worker.models_at_work`).
    after
        Called with the job when it is over: what others make of the same series, which nobody waits for.
    rules
        None: those of `config`, for ever.
    """

    def __init__(
        self,
        database: Database,
        spool: Spool,
        predictor: Predictor,
        config: NodeConfig,
        rules: RulesFile | None = None,
        after: Callable[[Job], None] | None = None,
    ) -> None:
        self._database = database
        self._spool = spool
        self._predictor = predictor
        self._config = config
        self._rules = rules or RulesFile(None, config, database)
        self._hearing = Hearing(database, config.audit)
        self._after = after

    def after(self, job: Job) -> None:
        """See `iap_node.worker.loop.FollowsUp`."""
        if self._after is not None:
            self._after(job)

    def __call__(self, job: Job) -> None:
        """Judge the revision of the series that the job names.

        Raises
        ------
        LeaseLost
            Somebody else has the job, or a late instance opened the next revision.
        RetriableError
            The database did not answer.
        OSError
            The spool cannot be read. Retried.
        """
        with self._database.reading() as session:
            instances = [
                instance
                for instance in archive.current_instances(session, job.series_id)
                if instance.revision <= job.revision
            ]
            facts = routes.series_facts(session, job.series_id)
        here = [instance for instance in instances if instance.bytes_state is BytesState.PRESENT]
        gone = [(one.id, _gone(one)) for one in instances if one.bytes_state is not BytesState.PRESENT]
        analysable = [instance for instance in here if instance.not_analysed_reason is None]
        headers = self._headers(here)
        header = read_series_header(headers.datasets(analysable or here))
        answer = (
            self._predict(analysable, header) if analysable else _Answer(None, _reasons(here or instances), [])
        )
        comparisons = compare(header, answer.prediction, self._config.audit, answer.reason or "")
        heard = self._hearing(job.series_id, headers.statements(), header, comparisons, answer.prediction)
        unheard = _unheard(gone + headers.problems, answer)
        with self._database.reading() as session:
            to_be = routes.findings_to_be(session, job.series_id, heard.findings, unheard)
        evidence = RoutingEvidence(
            answer.prediction, answer.reason or "", header, heard.protocol.values, facts, to_be, unheard
        )
        decision = self._rules.current().decide(evidence)
        now = datetime.now(UTC)
        with self._database.transaction() as session:
            results.save_judgement(
                session,
                job,
                header=header,
                prediction=answer.prediction,
                comparisons=comparisons,
                decision=decision,
                problems=list(dict(gone + headers.problems + answer.problems).items()),
                not_analysed_reason=answer.reason,
                now=now,
                findings=heard.findings,
                unheard=unheard,
            )
            if heard.protocol.values:
                protocols.save_protocol(session, job.series_id, job.revision, heard.protocol, now)
        log.info(
            "series judged",
            instances=len(instances),
            analysable=len(analysable),
            model=None if answer.prediction is None else answer.prediction.model_id,
            novel=None if answer.prediction is None else answer.prediction.novel,
            findings=[f"{one.element} {one.check}" for one in heard.findings],
            domain=decision.domain,
            destinations=decision.destinations,
            held=bool(decision.held),
            rules=decision.rules_version,
            not_analysed_reason=answer.reason,
        )

    def _headers(self, instances: Sequence[ArchivedInstance]) -> _Headers:
        read: dict[int, tuple[Dataset, InstanceStatements]] = {}
        problems: list[tuple[int, str]] = []
        for instance in instances:
            try:
                read[instance.id] = read_header_and_statements(self._spool.locate(instance.spool_path))
            except UnreadableInstance as error:
                problems.append((instance.id, str(error)))
        return _Headers(read, problems)

    def _predict(self, instances: Sequence[ArchivedInstance], header: SeriesHeader) -> _Answer:
        ids = {self._spool.locate(instance.spool_path): instance.id for instance in instances}
        limits = self._config.inference
        pixels = read_series_slices(
            list(ids),
            max_slices=limits.max_slices,
            max_pixels_per_slice=limits.max_pixels_per_slice,
            max_bytes_per_instance=limits.max_bytes_per_instance,
        )
        problems = [(ids[file], reason) for file, reason in pixels.problems]
        if not pixels.slices:
            return _Answer(None, f"no pixels could be read: {_counted(_texts(pixels.problems))}", problems)
        try:
            return _Answer(self._predictor.predict(pixels.slices, self._config.audit.alpha, header), None, problems)
        except UnreadablePixels as error:
            return _Answer(None, str(error), problems)


def _unheard(damaged: Sequence[tuple[int, str]], answer: _Answer) -> tuple[Witness, ...]:
    """Witnesses who could not look at every instance, or abstain: that they raise something no more says nothing."""
    if damaged:
        return tuple(Witness)
    spoke = answer.prediction is not None and answer.prediction.speaks
    return () if spoke and not answer.problems else (Witness.PIXELS,)


def _reasons(instances: Sequence[ArchivedInstance]) -> str:
    if not instances:
        return "the series has no instances"
    return _counted([instance.not_analysed_reason or _gone(instance) for instance in instances])


def _gone(instance: ArchivedInstance) -> str:
    return f"its bytes are {instance.bytes_state}: send it again"


def _texts(problems: Sequence[tuple[InstanceFile, str]]) -> list[str]:
    return [reason for _, reason in problems]


def _counted(reasons: Sequence[str]) -> str:
    """Distinct reasons, the commonest first, with their numbers where there are several."""
    counted = Counter(reasons).most_common()
    if len(counted) <= 1:
        return reasons[0] if reasons else "no slices"
    shown = [f"{reason} ({number})" for reason, number in counted[:MOST_REASONS]]
    more = len(counted) - len(shown)
    return "; ".join(shown) + (f"; and {more} other reasons" if more else "")
