"""One pull: study after study, series after series, what is here already left out. Called by the commands.

It may be interrupted anywhere and started again: what came is in the archive, and is not asked for a second time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

import structlog
from pynetdicom.association import Association

from iap_node.database.engine import Database
from iap_node.database.held import held_instances
from iap_node.errors import DeliveryError
from iap_node.listener.intake import Intake
from iap_node.pull.retrieve import Retriever
from iap_node.pull.search import FoundSeries, Wanted, find_instances, find_series, find_studies

ARRIVAL_S = 10.0  # after a C-MOVE: for the rows of what the PACS has sent to our listener
LOOK_S = 0.1
MOST_FAILURES = 3  # studies in a row that the PACS gives no association for

log = structlog.get_logger("pull")


class PullOutcome(StrEnum):
    """What became of a series."""

    PULLED = "pulled"
    HERE = "here already"
    WANTED = "wanted"  # a dry run
    INCOMPLETE = "incomplete"


@dataclass(frozen=True, slots=True)
class PulledSeries:
    """One series of a pull."""

    n_studies: int  # in all, and how many of them are through before this series' one
    n_studies_done: int
    study_instance_uid: str
    series_instance_uid: str
    description: str
    outcome: PullOutcome
    n_held: int  # before
    n_pulled: int
    problem: str = ""


def pull(
    wanted: Wanted,
    retriever: Retriever,
    database: Database,
    intake: Intake,
    *,
    dry_run: bool = False,
    arrival_s: float = ARRIVAL_S,
    on_studies: Callable[[int, int], None] = lambda n, done: None,
) -> Iterator[PulledSeries]:
    """Pull what is wanted and not here.

    Parameters
    ----------
    on_studies
        Called with how many studies there are and how many are through.

    Raises
    ------
    DeliveryError
        The PACS cannot be asked at all, or not any more.
    RetriableError, ConfigError
        Our disk or database does not work; the TLS files cannot be used.
    """
    with retriever.connected() as assoc:
        studies = find_studies(assoc, wanted)
    log.info("pull begins", n_studies=len(studies), modalities=list(wanted.modalities), study_date=wanted.study_date)
    n_failures = 0
    for n_done, study_instance_uid in enumerate(studies):
        on_studies(len(studies), n_done)
        try:
            with retriever.connected() as assoc:
                for series in find_series(assoc, study_instance_uid, wanted):
                    one = _Series(series, retriever, database, intake, arrival_s)
                    outcome, n_held, n_pulled, problem = one.pull(assoc, dry_run=dry_run)
                    yield PulledSeries(
                        len(studies), n_done, study_instance_uid, series.series_instance_uid, series.description,
                        outcome, n_held, n_pulled, problem,
                    )  # fmt: skip
            n_failures = 0
        except DeliveryError as error:
            n_failures += 1
            log.warning("study not pulled", study_instance_uid=study_instance_uid, error=str(error))
            if n_failures == MOST_FAILURES or n_done + 1 == len(studies):
                raise
    on_studies(len(studies), len(studies))


@dataclass(frozen=True, slots=True)
class _Series:
    series: FoundSeries
    retriever: Retriever
    database: Database
    intake: Intake
    arrival_s: float

    def pull(self, assoc: Association, *, dry_run: bool) -> tuple[PullOutcome, int, int, str]:
        """Outcome, how many were here before, how many came, and what went wrong."""
        series = self.series
        held = self._held()
        if held and len(held) == series.n_instances:
            return PullOutcome.HERE, len(held), 0, ""
        missing: list[str] = []
        if held:
            missing = [uid for uid in find_instances(assoc, series) if uid not in held]
            if not missing:
                return PullOutcome.HERE, len(held), 0, ""
        if dry_run:
            return PullOutcome.WANTED, len(held), 0, ""
        done = self.retriever.retrieve(assoc, series.study_instance_uid, series.series_instance_uid, missing)
        n_expected = len(held) + done.n_completed
        n_here = self._arrived(n_expected)
        problem = done.problem
        if not problem and n_here < n_expected:
            problem = (
                f"the PACS says that it sent {done.n_completed} instances, {n_here - len(held)} are here; "
                "does our listener run, at the address that the PACS has of it?"
            )
        log.info(
            "series pulled", series_instance_uid=series.series_instance_uid, n_held=len(held),
            n_pulled=n_here - len(held), problem=problem,
        )  # fmt: skip
        return PullOutcome.INCOMPLETE if problem else PullOutcome.PULLED, len(held), n_here - len(held), problem

    def _held(self) -> set[str]:
        with self.database.reading() as session:
            return held_instances(session, self.series.study_instance_uid, self.series.series_instance_uid)

    def _arrived(self, n_expected: int) -> int:
        """How many are here, once all are, or after a while."""
        self.intake.flush(self.arrival_s)
        deadline_s = time.monotonic() + self.arrival_s
        while (n_here := len(self._held())) < n_expected and time.monotonic() < deadline_s:
            time.sleep(LOOK_S)
        return n_here
