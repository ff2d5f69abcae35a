"""What a webhook is told of a series: its result, and what the receiver of a delivery needs beside it.

Called by `iap_node.worker.deliver`; the published schema is made of these records (`schema`).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from iap_node.database.results import judgement
from iap_node.records import Job
from iap_node.results.content import SeriesResult, plain, series_result

FORMAT = "iap-node-delivery"
FORMAT_VERSION = 1  # a change that breaks receivers makes it 2
EVENT = "result"


@dataclass(frozen=True, slots=True)
class Route:
    """Where the rules send the series; why, and what it was taken for, stands in the result."""

    destinations: tuple[str, ...]
    shadow_destinations: tuple[str, ...]
    """Sent too, and marked: what is found there decides nothing yet."""
    downstream_models: tuple[str, ...]
    by: tuple[str, ...]
    """Rules and models that send it to `destinations`; empty: the default route."""
    rules_version: str
    held: str
    """Why nothing was sent until a person released it; empty: it was not held."""


@dataclass(frozen=True, slots=True)
class ResultMessage:
    """The result of a series for one destination."""

    delivery: str
    """The same whenever this message comes again, which it does where an answer got lost."""
    destination: str
    """As the node's configuration names the receiver."""
    revision: int
    """Of the series; a late instance makes another one, of which the receiver is told anew."""
    shadow: bool
    """The receiver is a shadow route of the series: marked, and deciding nothing."""
    route: Route
    result: SeriesResult

    def as_json(self) -> dict[str, Any]:
        """As it is posted."""
        told = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        told |= {"route": plain(dataclasses.asdict(self.route)), "result": self.result.as_json()}
        return {"event": EVENT, "format": FORMAT, "format_version": FORMAT_VERSION, **told}


def result_message(session: Session, job: Job) -> ResultMessage:
    """What the destination of a DELIVER job is told: of the revision that the job delivers.

    Raises
    ------
    NoResult
        The series has not been judged.
    """
    result = series_result(session, job.series_id, job.revision)
    found = judgement(session, job.series_id, job.revision)
    assert found is not None  # it has a result
    decision = found.decision
    return ResultMessage(
        delivery=f"{result.series_instance_uid}/{result.revision}/{job.destination}",
        destination=job.destination,
        revision=result.revision,
        shadow=job.destination in decision.shadow_destinations,
        route=Route(
            destinations=decision.destinations,
            shadow_destinations=decision.shadow_destinations,
            downstream_models=decision.downstream_models,
            by=decision.by,
            rules_version=decision.rules_version,
            held=decision.held,
        ),
        result=result,
    )
