"""The life of a model: registered, in shadow, champion, retired; and what happened to each, for ever.

The infer role, the commands `iap-node models` and `iap-node retrain`, and the console change states here and nowhere
else. Each change is one transaction of the caller: its state and its event are there together, or not at all. There is
one champion at most and one model in shadow, over all processes: an index of the table says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Select, func, select, text
from sqlalchemy.orm import Session

from iap_node.database.insertion import insert_if_new
from iap_node.database.model_records import (
    Gate,
    ModelAtWork,
    ModelEvent,
    ModelLifeError,
    NoSuchModel,
    RegisteredModel,
    model_event,
    registered_model,
)
from iap_node.database.tables import (
    MODEL_AT_WORK,
    ModelEventKind,
    ModelEventRow,
    ModelRow,
    ModelState,
    PredictionRow,
)

__all__ = [
    "Gate",
    "ModelAtWork",
    "ModelEvent",
    "ModelLifeError",
    "NoSuchModel",
    "RegisteredModel",
    "at_work",
    "begin_shadow",
    "begin_with",
    "champion",
    "end_shadow",
    "forget_packages",
    "list_events",
    "list_models",
    "load_problems",
    "manifest_of",
    "model",
    "n_shadow_predictions",
    "note_event",
    "package_folders",
    "promote",
    "register_candidate",
    "retire",
    "roll_back",
]

# An advisory lock (PostgreSQL): changes of state follow each other. "mod" in ASCII.
_LIFE_LOCK = 0x6D6F64
_MAY_BE_PROMOTED: Final = (ModelState.CANDIDATE, ModelState.SHADOW, ModelState.RETIRED)
_MAY_BE_IN_SHADOW: Final = (ModelState.CANDIDATE, ModelState.RETIRED)


def register_candidate(
    session: Session,
    manifest: Mapping[str, Any],
    model_id: str,
    folder: str,
    gates: Sequence[Gate] | None,
    provenance: Mapping[str, Any],
    now: datetime,
    *,
    manifest_sha256: str,
    who: str,
    reason: str = "",
    parent_id: str | None = None,
) -> RegisteredModel:
    """Register a package that lies whole and checked in its folder; a gate that failed makes it REFUSED.

    A model that is registered with its package stays as it is: what was cut off may be done again. One that only
    predictions name, or whose package was gone, becomes a candidate; but a model that was refused once stays refused,
    unless it passes gates.

    Parameters
    ----------
    manifest
        model.json, as JSON.
    model_id
        `ModelPackage.model_id`: name, version and the first digits of model.json's hash.
    folder
        Relative to the data directory; see `iap_node.inference.store`.
    gates
        None where none were asked, as of a package that a person adds.
    provenance
        How the model came here: data manifest's hash, code version, seed, metrics, retraining run.
    """
    _one_at_a_time(session)
    insert_if_new(
        session, ModelRow, (ModelRow.model_id,), model_id=model_id, manifest={}, registered_at=now,
        state=ModelState.RETIRED,
    )  # fmt: skip
    row = session.get_one(ModelRow, model_id)
    if row.folder is not None:
        return registered_model(row)
    if gates is None and row.state is ModelState.REFUSED:
        row.folder = folder
        _note(session, model_id, ModelEventKind.REGISTERED, who, "its package is here again", now, {"folder": folder})
        session.flush()
        return registered_model(row)
    failed = [gate for gate in gates or () if not gate.passed]
    row.manifest, row.folder, row.manifest_sha256 = dict(manifest), folder, manifest_sha256
    row.gates = None if gates is None else [asdict(gate) for gate in gates]
    row.provenance, row.parent_id, row.registered_at = dict(provenance), parent_id, now
    row.state = ModelState.REFUSED if failed else ModelState.CANDIDATE
    _note(session, model_id, ModelEventKind.REGISTERED, who, reason, now, {"folder": folder})
    if gates is not None:
        kind = ModelEventKind.GATES_FAILED if failed else ModelEventKind.GATES_PASSED
        said = "; ".join(gate.sentence for gate in failed) or f"{len(gates)} gates"
        _note(session, model_id, kind, who, said, now, {"gates": row.gates})
    session.flush()
    return registered_model(row)


def promote(
    session: Session,
    model_id: str,
    who: str,
    reason: str,
    now: datetime,
    details: Mapping[str, Any] | None = None,
) -> RegisteredModel:
    """Make a model the champion; the one before it is retired, and is where a roll-back leads.

    Workers load it between two jobs. Check first that its package loads (`iap_node.inference.store.check_package`).

    Raises
    ------
    NoSuchModel
    ModelLifeError
        It is champion already, a gate refused it, or its package is not here.
    """
    _one_at_a_time(session)
    row = _with_package(session, model_id)
    if row.state not in _MAY_BE_PROMOTED:
        raise ModelLifeError(f"{model_id} is {row.state}{_REMEDIES.get(row.state, '')}; it cannot be promoted")
    if row.state is ModelState.SHADOW:
        _leave_shadow(session, row, who, "promoted", now)
    before = _champion_row(session)
    if before is not None:
        before.state = ModelState.RETIRED
        session.flush()  # the index lets one be champion at a time
    row.state, row.predecessor_id = ModelState.CHAMPION, None if before is None else before.model_id
    _note(
        session, model_id, ModelEventKind.PROMOTED, who, reason, now,
        {"predecessor": row.predecessor_id, **(details or {})},
    )  # fmt: skip
    if before is not None:
        _note(session, before.model_id, ModelEventKind.RETIRED, who, f"{model_id} is champion", now)
    session.flush()
    return registered_model(row)


def begin_with(session: Session, model_id: str, who: str, reason: str, now: datetime) -> RegisteredModel:
    """The champion; where there is none yet, this model becomes it. Infer roles that start together agree on one.

    Raises
    ------
    NoSuchModel
    ModelLifeError
        See `promote`.
    """
    _one_at_a_time(session)
    standing = champion(session)
    return promote(session, model_id, who, reason, now) if standing is None else standing


def roll_back(session: Session, who: str, reason: str, now: datetime) -> RegisteredModel:
    """Make the previous champion champion again; the one that it replaces is retired.

    Raises
    ------
    ModelLifeError
        There is no champion, none before it, or its package is not here any more.
    """
    _one_at_a_time(session)
    current = _champion_row(session)
    if current is None or current.predecessor_id is None:
        raise ModelLifeError("no champion came before the one at work; promote a model by its name")
    row = _with_package(session, current.predecessor_id)
    if row.state is ModelState.REFUSED:
        raise ModelLifeError(f"{row.model_id} was refused since; promote another model by its name")
    if row.state is ModelState.SHADOW:
        _leave_shadow(session, row, who, "champion again", now)
    current.state, current.predecessor_id = ModelState.RETIRED, None
    session.flush()
    row.state = ModelState.CHAMPION
    _note(session, current.model_id, ModelEventKind.ROLLED_BACK, who, reason, now, {"successor": row.model_id})
    _note(session, row.model_id, ModelEventKind.RESTORED, who, reason, now, {"instead_of": current.model_id})
    session.flush()
    return registered_model(row)


def begin_shadow(
    session: Session, model_id: str, n_series: int, who: str, reason: str, now: datetime, *, replace: bool = False
) -> RegisteredModel:
    """Let a model predict beside the champion for the next `n_series` series that are judged.

    Parameters
    ----------
    replace
        Another model in shadow leaves it; otherwise it is an error.

    Raises
    ------
    NoSuchModel
    ModelLifeError
        It is neither a candidate nor retired, its package is not here, or another model is in shadow.
    """
    if n_series < 1:
        raise ModelLifeError("a shadow lasts for one series at least")
    _one_at_a_time(session)
    row = _with_package(session, model_id)
    if row.state not in _MAY_BE_IN_SHADOW:
        raise ModelLifeError(f"{model_id} is {row.state}{_REMEDIES.get(row.state, '')}; it cannot be put into shadow")
    other = session.scalar(select(ModelRow).where(ModelRow.state == ModelState.SHADOW))
    if other is not None:
        if not replace:
            raise ModelLifeError(f"{other.model_id} is in shadow; end that first, or wait until it ends by itself")
        _leave_shadow(session, other, who, f"{model_id} takes its place", now)
        session.flush()
    row.state, row.shadow_series, row.shadow_begun_at, row.shadow_ended_at = ModelState.SHADOW, n_series, now, None
    _note(session, model_id, ModelEventKind.SHADOW_BEGUN, who, reason, now, {"series": n_series})
    session.flush()
    return registered_model(row)


def end_shadow(
    session: Session,
    model_id: str,
    who: str,
    reason: str,
    now: datetime,
    details: Mapping[str, Any] | None = None,
) -> RegisteredModel:
    """Take a model out of shadow; it is a candidate again, and its predictions stay.

    Raises
    ------
    NoSuchModel
    ModelLifeError
        It is not in shadow.
    """
    _one_at_a_time(session)
    row = _row(session, model_id)
    if row.state is not ModelState.SHADOW:
        raise ModelLifeError(f"{model_id} is {row.state}, not in shadow")
    _leave_shadow(session, row, who, reason, now, details)
    session.flush()
    return registered_model(row)


def retire(session: Session, model_id: str, who: str, reason: str, now: datetime) -> RegisteredModel:
    """Lay a model aside. It may be promoted later; a refused one stays refused.

    Raises
    ------
    NoSuchModel
    ModelLifeError
        It is the champion, refused, or retired already.
    """
    _one_at_a_time(session)
    row = _row(session, model_id)
    if row.state is ModelState.CHAMPION:
        raise ModelLifeError(f"{model_id} is champion; promote another model, or roll back")
    if row.state not in (ModelState.CANDIDATE, ModelState.SHADOW):
        raise ModelLifeError(f"{model_id} is {row.state} already")
    if row.state is ModelState.SHADOW:
        _leave_shadow(session, row, who, "retired", now)
    row.state = ModelState.RETIRED
    _note(session, model_id, ModelEventKind.RETIRED, who, reason, now)
    session.flush()
    return registered_model(row)


def forget_packages(session: Session, keep: int, who: str, now: datetime) -> list[RegisteredModel]:
    """Of the candidates that retraining made and that were never at work, let the packages go but the newest `keep`.

    Their rows, predictions and events stay. The caller removes the folders, as the models named them before, once this
    is committed.
    """
    _one_at_a_time(session)
    promoted = select(ModelEventRow.model_id).where(ModelEventRow.event == ModelEventKind.PROMOTED)
    query = (
        select(ModelRow)
        .where(
            ModelRow.state.in_((ModelState.CANDIDATE, ModelState.REFUSED)),
            ModelRow.folder.is_not(None),
            ModelRow.model_id.not_in(promoted),
        )
        .order_by(ModelRow.registered_at.desc(), ModelRow.model_id)
    )
    made_here = [row for row in session.scalars(query) if "retraining" in (row.provenance or {})]
    gone = []
    for row in made_here[keep:]:
        gone.append(registered_model(row))
        row.folder = None
        if row.state is ModelState.CANDIDATE:
            row.state = ModelState.RETIRED
        said = f"its package is removed: the newest {keep} candidates are kept"
        _note(session, row.model_id, ModelEventKind.RETIRED, who, said, now)
    session.flush()
    return gone


def note_event(
    session: Session,
    model_id: str,
    event: ModelEventKind,
    who: str,
    reason: str,
    now: datetime,
    details: Mapping[str, Any] | None = None,
) -> None:
    """Keep something that changes no state, as that a worker could not load the package."""
    _note(session, model_id, event, who, reason, now, details)


def champion(session: Session) -> RegisteredModel | None:
    """The model whose predictions count; None before the infer role has started for the first time."""
    row = _champion_row(session)
    return None if row is None else registered_model(row)


def at_work(session: Session) -> dict[ModelState, ModelAtWork]:
    """The champion and the model in shadow, where there are such. Cheap: an index holds these alone."""
    query = select(
        ModelRow.model_id, ModelRow.state, ModelRow.folder, ModelRow.shadow_series, ModelRow.shadow_begun_at
    ).where(MODEL_AT_WORK)
    return {row.state: ModelAtWork(*row) for row in session.execute(query)}


def model(session: Session, model_id: str) -> RegisteredModel:
    """One model.

    Raises
    ------
    NoSuchModel
    """
    return registered_model(_row(session, model_id))


def list_models(session: Session) -> list[RegisteredModel]:
    """All registered models: the champion, the one in shadow, then the newest first."""
    rank = {ModelState.CHAMPION: 0, ModelState.SHADOW: 1}
    newest = select(ModelRow).order_by(ModelRow.registered_at.desc(), ModelRow.model_id)
    return sorted((registered_model(row) for row in session.scalars(newest)), key=lambda one: rank.get(one.state, 2))


def list_events(
    session: Session, model_id: str | None = None, limit: int = 100, before: int | None = None
) -> list[ModelEvent]:
    """What happened to a model, or to all of them, the newest first.

    Parameters
    ----------
    before
        Only events with a smaller id: where the page before ended.
    """
    query = select(ModelEventRow).order_by(ModelEventRow.id.desc()).limit(limit)
    return [model_event(row) for row in session.scalars(_events_of(query, model_id, before))]


def package_folders(session: Session) -> list[str]:
    """Folders of all packages that are here, relative to the data directory."""
    return [folder for folder in session.scalars(select(ModelRow.folder)) if folder is not None]


def load_problems(session: Session) -> list[ModelEvent]:
    """What workers say of packages of the champion and of the model in shadow that they cannot load: the last word of
    each worker about each model, where it is bad.
    """
    query = (
        select(ModelEventRow)
        .join(ModelRow, ModelRow.model_id == ModelEventRow.model_id)
        .where(MODEL_AT_WORK, ModelEventRow.event.in_((ModelEventKind.NOT_LOADED, ModelEventKind.LOADED_AGAIN)))
        .order_by(ModelEventRow.id)
    )
    last = {(row.model_id, row.who): row for row in session.scalars(query)}
    return [model_event(row) for row in last.values() if row.event is ModelEventKind.NOT_LOADED]


def n_shadow_predictions(session: Session, model_id: str, since: datetime) -> int:
    """For how many revisions of series a model has predicted since it is in shadow."""
    query = select(func.count()).where(PredictionRow.model_id == model_id, PredictionRow.predicted_at >= since)
    return session.scalar(query) or 0


def manifest_of(session: Session, model_id: str) -> dict[str, Any]:
    """The manifest of a model package as it was registered; empty where it never was."""
    return session.scalar(select(ModelRow.manifest).where(ModelRow.model_id == model_id)) or {}


_REMEDIES: Final = {
    ModelState.REFUSED: ": a gate refused it",
    ModelState.CHAMPION: " already",
    ModelState.SHADOW: " already",
}


def _one_at_a_time(session: Session) -> None:
    """Changes of state follow each other, and each sees what the one before it did. SQLite has one writer anyway."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LIFE_LOCK})


def _row(session: Session, model_id: str) -> ModelRow:
    row = session.get(ModelRow, model_id, populate_existing=True)
    if row is None:
        raise NoSuchModel(f"no model {model_id!r} is registered; `iap-node models list` shows those that are")
    return row


def _with_package(session: Session, model_id: str) -> ModelRow:
    row = _row(session, model_id)
    if row.folder is None:
        raise ModelLifeError(
            f"the package of {model_id} is not here, only its predictions are; add it: `iap-node models add FOLDER`"
        )
    return row


def _champion_row(session: Session) -> ModelRow | None:
    query = select(ModelRow).where(MODEL_AT_WORK, ModelRow.state == ModelState.CHAMPION)
    return session.scalar(query.execution_options(populate_existing=True))


def _leave_shadow(
    session: Session, row: ModelRow, who: str, reason: str, now: datetime, details: Mapping[str, Any] | None = None
) -> None:
    row.state, row.shadow_ended_at = ModelState.CANDIDATE, now
    known = {"series": row.shadow_series}
    if row.shadow_begun_at is not None:
        known["predicted"] = n_shadow_predictions(session, row.model_id, row.shadow_begun_at)
    _note(
        session, row.model_id, ModelEventKind.SHADOW_ENDED, who, reason, now,
        {**known, **(details or {})},
    )  # fmt: skip


def _note(
    session: Session,
    model_id: str,
    event: ModelEventKind,
    who: str,
    reason: str,
    now: datetime,
    details: Mapping[str, Any] | None = None,
) -> None:
    session.add(
        ModelEventRow(model_id=model_id, at=now, who=who, event=event, reason=reason, details=dict(details or {}))
    )


def _events_of(query: Select[ModelEventRow], model_id: str | None, before: int | None) -> Select[ModelEventRow]:
    if model_id is not None:
        query = query.where(ModelEventRow.model_id == model_id)
    return query if before is None else query.where(ModelEventRow.id < before)
