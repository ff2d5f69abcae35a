"""What a model package says of itself, for the models page: figures on series that it never saw, where they are known.

The figures are those of `training.figures.Evaluation`, as JSON; older ones say less, and what is not as expected is not
shown. Called by `pages.models`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from iap_node.database.models import RegisteredModel
from iap_node.dicom.parameters import BY_KEYWORD

ALPHA = 0.05  # of the conformal sets whose coverage is drawn


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Series whose first class has a probability in one range."""

    n: int
    confidence: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class Audit:
    """Header against conformal set at one alpha."""

    alpha: float
    coverage: float
    power: float | None = None


@dataclass(frozen=True, slots=True)
class Head:
    """One parameter; None where it does not apply, or was not found out."""

    keyword: str
    series_top1: float | None = None
    series_mae: float | None = None
    series_r2: float | None = None
    ece: float | None = None
    reliability: tuple[ReliabilityBin, ...] = ()
    audit: tuple[Audit, ...] = ()

    @property
    def title(self) -> str:
        """For people."""
        known = BY_KEYWORD.get(self.keyword)
        return self.keyword if known is None else known.title

    @property
    def unit(self) -> str:
        """Of the mean absolute error."""
        known = BY_KEYWORD.get(self.keyword)
        return "" if known is None else known.unit

    @property
    def at_alpha(self) -> Audit | None:
        """Coverage at `ALPHA`."""
        return next((one for one in self.audit if abs(one.alpha - ALPHA) < 1e-9), None)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One model on one test split."""

    heads: tuple[Head, ...]
    images: str = ""
    n_series: int = 0
    n_patients: int = 0

    @property
    def drawn(self) -> tuple[Head, ...]:
        """Parameters with a reliability diagram."""
        return tuple(head for head in self.heads if head.reliability)

    @property
    def covered(self) -> tuple[tuple[Head, Audit], ...]:
        """Parameters whose coverage is known."""
        return tuple((head, head.at_alpha) for head in self.heads if head.at_alpha is not None)


_EVALUATION: TypeAdapter[Evaluation] = TypeAdapter(Evaluation)


def evaluation_of(model: RegisteredModel) -> Evaluation | None:
    """The figures that came with a model: from its registration, or from its package."""
    own = model.manifest.get("provenance")
    for source in (model.provenance, own if isinstance(own, dict) else {}):
        found = source.get("evaluation")
        if isinstance(found, dict):
            try:
                return _EVALUATION.validate_python(found)
            except ValidationError:
                continue
    return None


def facts_of(model: RegisteredModel) -> list[tuple[str, Any]]:
    """Where a model comes from, as pairs for a list of definitions; what is nested stays in the JSON."""
    own = model.manifest.get("provenance")
    found: dict[str, Any] = {**(own if isinstance(own, dict) else {}), **model.provenance}
    return [(name.replace("_", " "), value) for name, value in found.items() if isinstance(value, str | int | float)]
