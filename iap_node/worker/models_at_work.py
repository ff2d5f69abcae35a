"""The models that an infer worker has loaded: the champion, whose predictions count, and one in shadow beside it.

The table of models says which they are. The worker asks it for every series and changes between two of them, without a
restart; a package that does not load leaves the model at work that was there. What the model in shadow says is found
out when the verdict is written, from the same slices, and whatever goes wrong with it harms nobody. Called by `infer`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import structlog
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from iap_node.config.retraining import RetrainingConfig
from iap_node.database import models, shadow
from iap_node.database.engine import Database
from iap_node.database.models import ModelAtWork
from iap_node.database.tables import ModelEventKind, ModelState
from iap_node.errors import ModelPackageError, NodeError, RetriableError, where
from iap_node.records import Job, SeriesHeader, SeriesPrediction
from iap_node.worker.infer import Predictor

TRY_AGAIN_S = 60.0  # before a package that did not load is tried again
MOST_SHADOW_FAILURES = 5  # in a row; then the model leaves the shadow

Load = Callable[[str | None, str], Predictor]  # folder below the data directory, model id

log = structlog.get_logger("models")


@dataclass(frozen=True, slots=True)
class _Shown:
    """What the champion was asked, to ask the model in shadow the same."""

    slices: Sequence[NDArray[np.generic]]
    alpha: float
    header: SeriesHeader | None


class ModelsAtWork:
    """Answers like one model: the champion of the moment.

    Parameters
    ----------
    load
        Loads a package and its network; what it raises leaves the model at work that is there.
    worker
        Name of this worker for people who read what happened to a model; the same after a restart.

    Raises
    ------
    ModelPackageError
        No champion is registered, or neither its package nor that of any champion before it loads.
    """

    def __init__(
        self,
        database: Database,
        load: Load,
        worker: str,
        config: RetrainingConfig,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._load_package = load
        self._worker = worker
        self._config = config
        self._clock = clock
        self._not_before: dict[str, float] = {}  # packages that did not load, by model: when they are tried again
        self._shadow: Predictor | None = None
        self._shadow_failures = 0
        self._shown: _Shown | None = None
        self._champion = self._first()

    @property
    def model_id(self) -> str:
        """Of the model whose predictions count now."""
        return self._champion.model_id

    @property
    def training_data(self) -> str:
        """What it learned from."""
        return self._champion.training_data

    def predict(
        self, slices: Sequence[NDArray[np.generic]], alpha: float, header: SeriesHeader | None = None
    ) -> SeriesPrediction:
        """The champion's answer for one series; a new champion is loaded before.

        Raises
        ------
        RetriableError
            The database did not say which model is champion.
        UnreadablePixels
            See `iap_node.inference.predictor.Predictor.predict`.
        """
        self._shown = None
        with self._database.reading() as session:
            wanted = models.at_work(session).get(ModelState.CHAMPION)
        if wanted is not None and wanted.model_id != self._champion.model_id:
            self._champion = self._loaded(wanted) or self._champion
        answer = self._champion.predict(slices, alpha, header)
        self._shown = _Shown(slices, alpha, header)
        return answer

    def after(self, job: Job) -> None:
        """Ask the model in shadow, if there is one, about the series of a job that is over."""
        shown, self._shown = self._shown, None
        if shown is None:
            return
        try:
            with self._database.reading() as session:
                wanted = models.at_work(session).get(ModelState.SHADOW)
            if wanted is None:
                self._shadow = None  # its memory is free again
            elif self._has_shadow(wanted) and self._shadow is not None:
                self._ask(self._shadow, job, shown)
        except Exception as error:  # noqa: BLE001 - the edge: what compares two models must not end the worker
            log.warning("a series is not compared with the model in shadow", error=_told(error))

    def _ask(self, candidate: Predictor, job: Job, shown: _Shown) -> None:
        try:
            prediction = candidate.predict(shown.slices, shown.alpha, shown.header)
        except Exception as error:  # noqa: BLE001 - the edge: a model that decides nothing must not end the worker
            self._failed(candidate.model_id, error)
            return
        self._shadow_failures = 0
        now = datetime.now(UTC)
        with self._database.transaction() as session:
            shadow.save_shadow_prediction(session, job, prediction, now)
        with self._database.transaction() as session:
            ended = shadow.finish_shadow(
                session,
                candidate.model_id,
                "infer",
                now,
                self._config.agreement,
                self._config.gates.parameters,
                by_gate=self._config.promote == "by_gate",
            )
        if ended is not None:
            log.info("shadow over", model=ended.model_id, state=ended.state)

    def _failed(self, model_id: str, error: Exception) -> None:
        """A model in shadow could not answer: said once; one that never can leaves the shadow."""
        self._shadow_failures += 1
        reason = _told(error)
        log.warning("the model in shadow could not predict", model=model_id, error=reason)
        now = datetime.now(UTC)
        with self._database.transaction() as session:
            if self._shadow_failures == 1:
                models.note_event(session, model_id, ModelEventKind.SHADOW_FAILED, self._worker, reason, now)
            elif self._shadow_failures >= MOST_SHADOW_FAILURES:
                if models.model(session, model_id).state is ModelState.SHADOW:
                    said = f"it failed {self._shadow_failures} times in a row: {reason}"
                    models.end_shadow(session, model_id, self._worker, said, now)
                self._shadow_failures = 0

    def _has_shadow(self, wanted: ModelAtWork) -> bool:
        if self._shadow is None or self._shadow.model_id != wanted.model_id:
            self._shadow, self._shadow_failures = self._loaded(wanted), 0
        return self._shadow is not None

    def _first(self) -> Predictor:
        """The champion, or the newest before it whose package loads."""
        with self._database.reading() as session:
            chain = list(_champions(models.at_work(session).get(ModelState.CHAMPION), session))
        for wanted in chain:
            found = self._loaded(wanted)
            if found is not None:
                if wanted is not chain[0]:
                    log.error("the champion does not load; an earlier one works in its place", model=found.model_id)
                return found
        if not chain:
            raise ModelPackageError("no model is champion; promote one: `iap-node models promote MODEL`")
        raise ModelPackageError(
            f"the package of {chain[0].model_id} does not load, nor that of any champion before it; "
            "`iap-node models add FOLDER` brings it back"
        )

    def _loaded(self, wanted: ModelAtWork) -> Predictor | None:
        """A model, loaded; None where its package does not load, and for a while after that."""
        if self._clock() < self._not_before.get(wanted.model_id, float("-inf")):
            return None
        try:
            found = self._load_package(wanted.folder, wanted.model_id)
        except Exception as error:  # noqa: BLE001 - the edge: whatever is wrong with a package, the worker works on
            self._not_before[wanted.model_id] = self._clock() + TRY_AGAIN_S
            reason = _told(error)
            log.error("a model does not load; the one at work goes on", model=wanted.model_id, error=reason)
            self._tell(wanted.model_id, ModelEventKind.NOT_LOADED, reason)
            return None
        self._not_before.pop(wanted.model_id, None)
        log.info("model loaded", model=found.model_id, state=wanted.state, training_data=found.training_data,
                 engine=getattr(found, "engine", ""))  # fmt: skip
        self._tell(wanted.model_id, ModelEventKind.LOADED_AGAIN, "")
        return found

    def _tell(self, model_id: str, event: ModelEventKind, reason: str) -> None:
        """Note that a package does not load, or does again; once each, whatever restarts meanwhile."""
        try:
            with self._database.transaction() as session:
                told = {(one.model_id, one.who) for one in models.load_problems(session)}
                if ((model_id, self._worker) in told) != (event is ModelEventKind.NOT_LOADED):
                    models.note_event(session, model_id, event, self._worker, reason, datetime.now(UTC))
        except RetriableError as error:
            log.warning("what happened to a model is not noted", model=model_id, error=str(error))


def _champions(current: ModelAtWork | None, session: Session) -> Iterator[ModelAtWork]:
    """The champion and those before it, each once."""
    seen: set[str] = set()
    while current is not None and current.model_id not in seen:
        yield current
        seen.add(current.model_id)
        before = models.model(session, current.model_id).predecessor_id
        if before is None:
            return
        row = models.model(session, before)
        current = ModelAtWork(row.model_id, row.state, row.folder, row.shadow_series, row.shadow_begun_at)


def _told(error: Exception) -> str:
    """An error for people: our own in its words, others as class and place, which quote no header."""
    return str(error) if isinstance(error, NodeError) else where(error)
