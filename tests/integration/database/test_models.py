"""The life of a model and of a retraining, on both databases: who is champion, and that there is never a second one."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from iap_node.database import models, retraining
from iap_node.database.engine import Database
from iap_node.database.models import Gate, ModelLifeError, NoSuchModel, RegisteredModel
from iap_node.database.retraining import NotRunning, RetrainingUnderWay
from iap_node.database.tables import ModelEventKind, ModelRow, ModelState, RetrainingState
from tests.integration.database.conftest import NOON

PASSED = Gate("overall", True, "0.98 of right answers, 0.97 asked", 0.98, 0.97)
FAILED = Gate("calibration", False, "ECE 0.11, at most 0.06 asked", 0.11, 0.06)


def register(session: Session, model_id: str, gates: list[Gate] | None = None) -> RegisteredModel:
    return models.register_candidate(
        session, {"training_data": "simulated images"}, model_id, f"models/{model_id}", gates, {"seed": 1}, NOON,
        manifest_sha256="0" * 64, who="retraining 1",
    )  # fmt: skip


def events_of(session: Session, model_id: str | None = None) -> list[str]:
    return [f"{one.model_id} {one.event}" for one in reversed(models.list_events(session, model_id))]


def test_a_model_is_promoted_and_rolled_back_to_the_one_before(database: Database) -> None:
    with database.transaction() as session:
        for name in ("a", "b"):
            register(session, name)
            models.promote(session, name, "eve", "better", NOON)
    with database.transaction() as session:
        assert models.model(session, "a").state is ModelState.RETIRED
        assert models.roll_back(session, "eve", "worse at 7 T", NOON).model_id == "a"
    with database.reading() as session:
        standing = models.champion(session)
        assert standing is not None
        assert standing.model_id == "a"
        assert models.model(session, "b").state is ModelState.RETIRED
        assert [one.model_id for one in models.at_work(session).values()] == ["a"]
        assert events_of(session) == [
            "a registered", "a promoted", "b registered", "b promoted", "a retired", "b rolled_back", "a restored",
        ]  # fmt: skip
    with pytest.raises(ModelLifeError, match="no champion came before"), database.transaction() as session:
        models.roll_back(session, "eve", "again", NOON)


def test_a_roll_back_that_is_cut_off_leaves_the_champion(database: Database) -> None:
    with database.transaction() as session:
        for name in ("a", "b"):
            register(session, name)
            models.promote(session, name, "eve", "better", NOON)
    with pytest.raises(KeyboardInterrupt), database.transaction() as session:
        models.roll_back(session, "eve", "worse", NOON)
        raise KeyboardInterrupt
    with database.reading() as session:
        assert models.at_work(session)[ModelState.CHAMPION].model_id == "b"
        assert events_of(session)[-1] == "a retired"


def test_two_that_promote_at_once_leave_one_champion(
    database: Database, in_threads: Callable[[int, Callable[[int], None]], None]
) -> None:
    with database.transaction() as session:
        for number in range(4):
            register(session, f"m{number}")

    def promote(number: int) -> None:
        with database.transaction() as session:
            models.promote(session, f"m{number}", "eve", "", NOON)

    in_threads(4, promote)
    with database.reading() as session:
        states = [one.state for one in models.list_models(session)]
        assert sorted(states) == [ModelState.CHAMPION] + [ModelState.RETIRED] * 3
        chain, at = [], models.champion(session)
        while at is not None:
            chain.append(at.model_id)
            at = None if at.predecessor_id is None else models.model(session, at.predecessor_id)
    assert len(chain) == 4  # each knows the one before it: none was promoted over a champion that it did not see


def test_the_table_itself_admits_no_second_champion(database: Database) -> None:
    with pytest.raises(IntegrityError), database.transaction() as session:
        session.add_all(
            ModelRow(model_id=name, manifest={}, registered_at=NOON, state=ModelState.CHAMPION) for name in "ab"
        )


def test_a_model_that_a_gate_refused_never_decides_anything(database: Database) -> None:
    with database.transaction() as session:
        assert register(session, "bad", [PASSED, FAILED]).state is ModelState.REFUSED
        assert register(session, "good", [PASSED]).state is ModelState.CANDIDATE
        refused: list[Callable[[], object]] = [
            lambda: models.promote(session, "bad", "eve", "", NOON),
            lambda: models.begin_shadow(session, "bad", 10, "eve", "", NOON),
            lambda: models.retire(session, "bad", "eve", "", NOON),
        ]
        for change in refused:
            with pytest.raises(ModelLifeError, match="refused"):
                change()
        failed = models.list_events(session, "bad")[0]
        assert (failed.event, failed.reason) == (ModelEventKind.GATES_FAILED, FAILED.sentence)
        assert models.model(session, "bad").gates == (PASSED, FAILED)
        models.forget_packages(session, 0, "retraining 2", NOON)
        session.get_one(ModelRow, "bad").folder = None
        assert register(session, "bad").state is ModelState.REFUSED  # added by hand, once its package had gone
        assert models.model(session, "bad").gates == (PASSED, FAILED)


def test_registering_again_changes_nothing_and_gives_a_predicted_model_its_package(database: Database) -> None:
    with database.transaction() as session:
        session.add(ModelRow(model_id="old", manifest={}, registered_at=NOON))  # as a prediction leaves it
        session.flush()
        with pytest.raises(ModelLifeError, match="is not here"):
            models.promote(session, "old", "eve", "", NOON)
        register(session, "old")
        models.promote(session, "old", "eve", "", NOON)
        assert register(session, "old").state is ModelState.CHAMPION
        assert events_of(session) == ["old registered", "old promoted"]
        with pytest.raises(NoSuchModel, match="models list"):
            models.promote(session, "nobody", "eve", "", NOON)


def test_one_model_is_in_shadow_at_a_time_and_is_a_candidate_afterwards(database: Database) -> None:
    with database.transaction() as session:
        for name in "abc":
            register(session, name)
        models.promote(session, "a", "eve", "", NOON)
        with pytest.raises(ModelLifeError, match="champion already"):
            models.begin_shadow(session, "a", 5, "eve", "", NOON)
        models.begin_shadow(session, "b", 5, "eve", "", NOON)
        with pytest.raises(ModelLifeError, match="b is in shadow"):
            models.begin_shadow(session, "c", 5, "eve", "", NOON)
        models.begin_shadow(session, "c", 5, "retraining 2", "", NOON, replace=True)
        assert models.model(session, "b").state is ModelState.CANDIDATE
        assert models.end_shadow(session, "c", "infer", "5 series", NOON + timedelta(1)).shadow_ended_at is not None
        assert models.begin_shadow(session, "b", 9, "eve", "", NOON).state is ModelState.SHADOW
        assert models.promote(session, "b", "eve", "", NOON).shadow_ended_at == NOON
        assert [one.state for one in models.list_models(session)] == ["champion", "retired", "candidate"]
        assert models.retire(session, "c", "eve", "old", NOON).state is ModelState.RETIRED
        with pytest.raises(ModelLifeError, match="champion"):
            models.retire(session, "b", "eve", "", NOON)


def test_one_retraining_is_under_way_at_most(
    database: Database, in_threads: Callable[[int, Callable[[int], None]], None]
) -> None:
    outcomes: list[str] = []

    def ask(number: int) -> None:
        try:
            with database.transaction() as session:
                retraining.request_run(session, f"person {number}", NOON)
            outcomes.append("filed")
        except RetrainingUnderWay:
            outcomes.append("under way")

    in_threads(3, ask)
    assert sorted(outcomes) == ["filed", "under way", "under way"]
    with database.transaction() as session:
        run = retraining.current_run(session)
        assert run is not None
        retraining.begin_run(session, run.id, None, "host", 7, NOON)
        with pytest.raises(NotRunning):
            retraining.begin_run(session, run.id, None, "host", 8, NOON)
        retraining.tell_progress(session, run.id, "training", 0.4, "epoch 2 of 5", NOON + timedelta(minutes=1))
        with pytest.raises(RetrainingUnderWay, match=f"retraining {run.id}"):
            retraining.request_run(session, "eve", NOON)
        ended = retraining.end_run(session, run.id, RetrainingState.INTERRUPTED, "its process is gone", NOON)
        assert (ended.under_way, ended.progress, ended.stage) == (False, 0.4, "training")
        with pytest.raises(NotRunning):
            retraining.tell_progress(session, run.id, "training", 0.5, "", NOON)
        again = retraining.request_run(session, "eve", NOON)
        assert [one.id for one in retraining.list_runs(session)] == [again.id, run.id]
