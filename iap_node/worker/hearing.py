"""The three witnesses in the worker: what standard, pixels and habit have against the headers of one series.

Reads from the archive what the habit needs, and keeps the site's vocabulary for a while. Called by `infer`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from iap_node.audit.checks import check_series
from iap_node.audit.habit import habit_findings, habit_testimony, learn_habit, stated_protocol
from iap_node.audit.pixels import pixel_findings
from iap_node.audit.vocabulary import Vocabulary, learn_vocabulary, load_vocabulary
from iap_node.audit.witnesses import hear
from iap_node.config import AuditConfig
from iap_node.database import protocols
from iap_node.database.engine import Database
from iap_node.dicom.statements import InstanceStatements
from iap_node.records import Finding, HeaderComparison, SeriesHeader, SeriesPrediction, StatedProtocol

VOCABULARY_S = 600.0  # what the archive teaches of spellings changes with new scanners, not with every series


@dataclass(frozen=True, slots=True)
class Heard:
    """What came out of it."""

    findings: tuple[Finding, ...]
    protocol: StatedProtocol


class Hearing:
    """Hears the witnesses about one series after the other.

    Raises
    ------
    ConfigError
        The vocabulary file of the configuration cannot be used.
    """

    def __init__(self, database: Database, config: AuditConfig) -> None:
        self._database = database
        self._config = config
        self._pinned = load_vocabulary(config.habit.vocabulary)
        self._vocabulary = self._pinned
        self._learn_at = float("-inf")

    def __call__(
        self,
        series_id: int,
        instances: Sequence[InstanceStatements],
        header: SeriesHeader,
        comparisons: Sequence[HeaderComparison],
        prediction: SeriesPrediction | None,
    ) -> Heard:
        """The findings of one series, each with what all witnesses say, and the protocol that it states.

        Parameters
        ----------
        instances
            What its instances state, as far as they could be read; those that are no MR images have no findings.
        """
        vocabulary = self._current_vocabulary()
        own = stated_protocol(instances, vocabulary)
        with self._database.reading() as session:
            history = protocols.history(session, own, series_id, self._config.habit.series)
            study = protocols.of_study(session, series_id)
        habit = learn_habit(own, history, self._config.habit, vocabulary, study[0].study if study else "")
        standard = check_series(instances)
        pixels = pixel_findings(comparisons, header, prediction, self._config, standard)
        usual = habit_findings(own, habit, study)
        findings = hear(
            (*standard, *pixels, *usual),
            comparisons=comparisons,
            prediction=prediction,
            habit=lambda element: habit_testimony(element, own, habit),
            checked=bool(instances),
        )
        return Heard(findings, own)

    def _current_vocabulary(self) -> Vocabulary:
        if time.monotonic() >= self._learn_at:
            with self._database.reading() as session:
                devices = protocols.device_spellings(session)
                options = protocols.scan_options(session)
            self._vocabulary = learn_vocabulary(self._pinned, devices, options)
            self._learn_at = time.monotonic() + VOCABULARY_S
        return self._vocabulary
