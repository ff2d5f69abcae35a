"""Models, their gates and events as the rooms get them, and why a model cannot become what it is asked to become.

Handed out by `iap_node.database.models`, which everybody imports them from.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from iap_node.database.tables import ModelEventKind, ModelEventRow, ModelRow, ModelState
from iap_node.errors import PermanentError


class ModelLifeError(PermanentError):
    """A model cannot become what it is asked to become; the text says why, and what can be done."""


class NoSuchModel(ModelLifeError):
    """No model of this name is registered."""


@dataclass(frozen=True, slots=True)
class Gate:
    """One thing that a candidate had to show, and whether it did."""

    name: str  # "overall", "calibration", "Manufacturer"
    passed: bool
    sentence: str  # for people: what was measured, and what was asked
    measured: float | None = None
    limit: float | None = None


@dataclass(frozen=True, slots=True)
class RegisteredModel:
    """A model package as it was registered, and what it is to this node."""

    model_id: str
    manifest: dict[str, Any]  # model.json; empty where only predictions name the model
    registered_at: datetime
    state: ModelState
    folder: str | None  # of its package, relative to the data directory; None: it is not here
    manifest_sha256: str | None  # of model.json
    gates: tuple[Gate, ...] | None  # None: it was not asked for any
    provenance: dict[str, Any]  # how it came here
    parent_id: str | None  # the model that its training began with
    predecessor_id: str | None  # the champion before it
    shadow_series: int | None  # for how many series it is, or was last, in shadow
    shadow_begun_at: datetime | None
    shadow_ended_at: datetime | None

    @property
    def training_data(self) -> str:
        """What the model learned from, in one sentence."""
        return str(self.manifest.get("training_data", ""))

    @property
    def parameters(self) -> list[str]:
        """DICOM keywords of what it predicts."""
        return [str(one.get("keyword", "")) for one in self.manifest.get("parameters", ())]


@dataclass(frozen=True, slots=True)
class ModelAtWork:
    """The model that workers are to use, as little of it as they ask for again and again."""

    model_id: str
    state: ModelState  # CHAMPION or SHADOW
    folder: str | None
    shadow_series: int | None
    shadow_begun_at: datetime | None


@dataclass(frozen=True, slots=True)
class ModelEvent:
    """What happened to a model, and who did it."""

    id: int
    model_id: str
    at: datetime
    who: str
    event: ModelEventKind
    reason: str
    details: dict[str, Any]


def registered_model(row: ModelRow) -> RegisteredModel:
    """Of a row."""
    return RegisteredModel(
        model_id=row.model_id,
        manifest=row.manifest,
        registered_at=row.registered_at,
        state=row.state,
        folder=row.folder,
        manifest_sha256=row.manifest_sha256,
        gates=None if row.gates is None else tuple(Gate(**gate) for gate in row.gates),
        provenance=row.provenance or {},
        parent_id=row.parent_id,
        predecessor_id=row.predecessor_id,
        shadow_series=row.shadow_series,
        shadow_begun_at=row.shadow_begun_at,
        shadow_ended_at=row.shadow_ended_at,
    )


def model_event(row: ModelEventRow) -> ModelEvent:
    """Of a row."""
    return ModelEvent(row.id, row.model_id, row.at, row.who, row.event, row.reason, row.details)
