"""The life of a run's process: begun by the clock or on request, killed anywhere, gone on with, cancelled.

Not here: what a run finds out (test_retrain).
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from typer.testing import CliRunner

from iap_node.cli import app
from iap_node.database import models, retraining
from iap_node.database.engine import Database
from iap_node.database.retraining import NotRunning, RetrainingUnderWay
from iap_node.database.tables import RetrainingState
from iap_node.upkeep import retraining as upkeep
from iap_node.upkeep.retraining import Trainer, is_due, is_gone
from training.retrain import run_one
from training.retraining import run as stages
from training.retraining.life import Life

from .conftest import ArchivedNode

pytestmark = pytest.mark.xdist_group("retraining")  # the archive is made once
MakeNode = Callable[..., ArchivedNode]
NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
SLEEPS = (sys.executable, "-c", "import sys; sys.stdin.read()")  # until its supervisor is gone
WAIT_S = 60.0


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError(f"waited in vain for {what}")


@pytest.fixture
def trainers() -> Iterator[Callable[..., Trainer]]:
    """Factory of trainers; what they started is ended."""
    made: list[Trainer] = []

    def make(node: ArchivedNode, **settings: Any) -> Trainer:
        made.append(Trainer(node.config, node.config_path, node.database, settings.pop("at", NOON), **settings))
        return made[-1]

    yield make
    for trainer in made:
        trainer.stop(10.0)


class KilledHere(BaseException):
    """Nothing of ours catches it: what is on the disk and in the database is what a kill leaves."""


@pytest.mark.parametrize("stage", ["training", "calibrating", "evaluating", "registering"])
def test_a_kill_in_a_stage_leaves_the_champion_and_a_run_that_goes_on(
    make_node: MakeNode, trainers: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    node = make_node("poor", epochs=2)
    champion = node.champion()
    told: list[str] = []
    tell = Life.tell

    def tell_until_killed(life: Life, at: str, share: float, message: str = "") -> None:
        told.append(at)
        if at == stage and told.count(at) > 1 - (at in ("calibrating", "registering")):
            raise KilledHere
        tell(life, at, share, message)

    with monkeypatch.context() as patched:
        patched.setattr(Life, "tell", tell_until_killed)
        with pytest.raises(KilledHere):
            run_one(node.config_path, node.ask().id, node.database, threading.Event())
    assert node.champion() == champion and node.packages() == [champion]
    (killed,) = node.runs()
    assert (killed.state is RetrainingState.RUNNING and killed.stage == stage) or told[-1] == stage
    trainer = trainers(node, command=SLEEPS)
    later = datetime.now(UTC) + timedelta(seconds=retraining.SILENT_S + 1)
    trainer.look(later)  # notices that nobody is at it
    trainer.look(later)  # asks for what goes on
    interrupted, again = node.runs()
    assert interrupted.state is RetrainingState.INTERRUPTED and again.work == interrupted.work
    steps: list[int] = []
    fit = stages.fit
    monkeypatch.setattr(
        stages, "fit", lambda *a, report, **k: fit(*a, report=lambda s: (steps.append(s.step), report(s)), **k)
    )
    run_one(node.config_path, again.id, node.database, threading.Event())
    ended = node.run(again.id)
    assert ended.state in (RetrainingState.SUCCEEDED, RetrainingState.REFUSED), ended.message
    assert ended.report is not None and ended.report["resumed"] is True
    assert node.packages() == sorted([champion, ended.candidate_model_id or ""])
    if stage != "training":
        assert steps == [], "what was fitted is not fitted again"


def test_a_process_that_is_killed_is_gone_on_with_by_the_scheduler(
    make_node: MakeNode, trainers: Callable[..., Trainer]
) -> None:
    """`python -m training.retrain`, ended by SIGKILL while it reads the archive."""
    node = make_node("poor", epochs=100_000)
    asked = node.ask()
    trainer = trainers(node)
    trainer.look(datetime.now(UTC))
    process = trainer.pid
    assert process is not None
    wait_for(lambda: node.run(asked.id).stage == "preparing", "the first stage")
    assert os.getpriority(os.PRIO_PROCESS, process) >= os.getpriority(os.PRIO_PROCESS, 0)
    os.kill(process, signal.SIGKILL)
    wait_for(lambda: trainer.pid is None, "the end of the process")
    trainer.look(datetime.now(UTC))
    killed, again = node.runs()
    assert killed.state is RetrainingState.INTERRUPTED and "exit code -9" in killed.message
    assert again.state is RetrainingState.REQUESTED and again.work == killed.work == f"run-{killed.id}"
    assert node.packages() == [node.champion()]


def test_a_cancelled_process_ends_by_itself_and_nobody_goes_on(
    make_node: MakeNode, trainers: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    node = make_node("poor", epochs=100_000)
    monkeypatch.setattr("training.retraining.life.HEARTBEAT_S", 0.05)
    run = node.ask()
    thread = threading.Thread(target=run_one, args=(node.config_path, run.id, node.database, threading.Event()))
    thread.start()
    wait_for(lambda: node.run(run.id).stage == "training", "training")
    said = CliRunner().invoke(app, ["retrain", "cancel", "--config", str(node.config_path)])
    assert said.exit_code == 0 and "told to end" in said.output
    thread.join(WAIT_S)
    ended = node.run(run.id)
    assert ended.state is RetrainingState.INTERRUPTED and ended.message.startswith("cancelled by ")
    trainers(node, command=SLEEPS).look(NOON)
    assert len(node.runs()) == 1
    assert node.packages() == [node.champion()]


def test_a_cancelled_process_that_does_not_end_is_killed(
    make_node: MakeNode, trainers: Callable[..., Trainer]
) -> None:
    node = make_node()
    run = node.ask()
    trainer = trainers(node, command=SLEEPS)
    trainer.look(NOON)
    process = trainer.pid
    with node.database.transaction() as session:
        retraining.begin_run(session, run.id, None, "this host", process or 0, NOON)
        retraining.cancel_run(session, "test", NOON)
    trainer.look(NOON)
    trainer.look(NOON + timedelta(seconds=upkeep.CANCEL_S + 1))
    assert trainer.pid is None and node.run(run.id).state is RetrainingState.INTERRUPTED


def test_a_stopping_scheduler_lets_the_next_one_go_on(make_node: MakeNode, trainers: Callable[..., Trainer]) -> None:
    node = make_node()
    node.ask()
    trainer = trainers(node, command=SLEEPS)
    trainer.look(NOON)
    assert trainer.pid is not None
    trainer.stop(10.0)
    assert trainer.pid is None
    assert node.runs()[0].state is RetrainingState.REQUESTED, "it had not begun: the next scheduler starts it"


def test_a_missing_requirement_is_said_with_its_remedy(make_node: MakeNode, trainers: Callable[..., Trainer]) -> None:
    node = make_node()
    run = node.ask()
    trainers(node, is_there=lambda name: name != "pyarrow").look(NOON)
    ended = node.run(run.id)
    assert ended.state is RetrainingState.FAILED and "pip install 'iap-node[training]'" in ended.message


def test_a_process_that_ends_before_it_begins_has_failed(make_node: MakeNode, trainers: Callable[..., Trainer]) -> None:
    node = make_node()
    run = node.ask()
    trainer = trainers(node, command=(sys.executable, "-c", "raise SystemExit(3)"))
    trainer.look(NOON)
    wait_for(lambda: trainer.pid is None, "the end of the process")
    trainer.look(NOON)
    assert node.run(run.id).state is RetrainingState.FAILED and "exit code 3" in node.run(run.id).message


def test_the_clock_asks_for_a_run_where_enough_is_new(make_node: MakeNode, trainers: Callable[..., Trainer]) -> None:
    node = make_node(cron="0 2 * * 0", min_new_series=150)  # Sundays at two
    sunday = datetime(2031, 3, 2, 2, 0, tzinfo=UTC)
    trainer = trainers(node, command=SLEEPS, at=sunday - timedelta(hours=1))
    trainer.look(sunday - timedelta(seconds=1))
    assert node.runs() == []
    trainer.look(sunday)
    (run,) = node.runs()
    assert run.requested_by == retraining.SCHEDULE
    with node.database.transaction() as session:
        retraining.begin_run(session, run.id, None, "this host", os.getpid(), sunday)
        retraining.report_run(session, run.id, {}, sunday)
        retraining.end_run(session, run.id, RetrainingState.REFUSED, "no better", sunday)
    trainer.look(sunday + timedelta(days=7))
    assert len(node.runs()) == 1, "nothing came since"


@pytest.mark.parametrize(
    ("since", "due"),
    [
        (timedelta(minutes=-1), True),
        (timedelta(0), False),  # this turn was taken
        (timedelta(days=-7), True),
    ],
)
def test_a_turn_of_the_clock_is_taken_once(since: timedelta, due: bool) -> None:
    assert is_due("0 12 1 3 *", NOON + since, NOON) is due


def test_commands_show_and_refuse(make_node: MakeNode) -> None:
    node = make_node()
    runner, config = CliRunner(), ("--config", str(node.config_path))
    assert "nobody has asked" in runner.invoke(app, ["retrain", "status", *config]).output
    assert runner.invoke(app, ["retrain", "now", "--no-wait", *config]).exit_code == 0
    second = runner.invoke(app, ["retrain", "now", "--no-wait", *config])
    assert isinstance(second.exception, RetrainingUnderWay)
    assert "cancelled by" in runner.invoke(app, ["retrain", "cancel", *config]).output
    assert isinstance(runner.invoke(app, ["retrain", "cancel", *config]).exception, NotRunning)
    assert '"state": "interrupted"' in runner.invoke(app, ["retrain", "status", "1", "--json", *config]).output


def test_a_person_follows_a_run_until_its_end(
    make_node: MakeNode, trainers: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    node = make_node()
    monkeypatch.setattr("iap_node.cli.retrain.FOLLOW_S", 0.01)
    trainer, over = trainers(node, is_there=lambda name: name != "torch"), threading.Event()

    def look_often() -> None:
        while not over.wait(0.02):
            trainer.look(datetime.now(UTC))

    thread = threading.Thread(target=look_often)
    thread.start()
    try:
        said = CliRunner().invoke(app, ["retrain", "now", "--config", str(node.config_path)])
    finally:
        over.set()
        thread.join()
    assert said.exit_code == 1 and "retraining 1: failed: training needs torch" in said.output


# ---------------------------------------------------------------- the table, on both databases


def test_one_run_is_under_way_at_a_time(database: Database) -> None:
    with database.transaction() as session:
        first = retraining.request_run(session, "one", NOON)
    with database.transaction() as session, pytest.raises(RetrainingUnderWay):
        retraining.request_run(session, "two", NOON)
    with database.transaction() as session:
        retraining.begin_run(session, first.id, None, "host", 1, NOON, work="run-1")
        with pytest.raises(RetrainingUnderWay):
            retraining.request_run(session, "two", NOON)
        with pytest.raises(NotRunning):
            retraining.begin_run(session, first.id, None, "other host", 2, NOON)
        assert retraining.cancel_run(session, "three", NOON).under_way
        assert retraining.beat(session, first.id, NOON + timedelta(hours=1)).cancelled_by == "three"
        retraining.report_run(session, first.id, {"a": 1}, NOON)
        retraining.report_run(session, first.id, {"b": 2})
        ended = retraining.end_run(session, first.id, RetrainingState.INTERRUPTED, "cancelled", NOON)
        assert ended.report == {"a": 1, "b": 2} and ended.work == "run-1" and ended.data_until == NOON
        assert retraining.newest_data_until(session) is None, "it came to no judgement of what it looked at"
        assert retraining.works_in_use(session) == {"run-1"}
        again = retraining.request_run(session, "one", NOON, "run-1")
        assert retraining.count_runs_of(session, "run-1") == 2
        assert retraining.begin_run(session, again.id, None, "host", 3, NOON, work="run-2").work == "run-1"
        retraining.end_run(session, again.id, RetrainingState.SUCCEEDED, "", NOON)
        with pytest.raises(NotRunning):
            retraining.beat(session, again.id, NOON)
        assert retraining.works_in_use(session) == set()
        assert retraining.newest_request_by(session, "one") == NOON
        assert models.champion(session) is None


def test_a_run_is_gone_when_it_is_silent_or_its_process_is(database: Database) -> None:
    with database.transaction() as session:
        run = retraining.request_run(session, "one", NOON)
        mine = retraining.begin_run(session, run.id, None, socket.gethostname(), os.getpid(), NOON)
    assert not is_gone(mine, NOON + timedelta(seconds=retraining.SILENT_S - 1))
    assert is_gone(mine, NOON + timedelta(seconds=retraining.SILENT_S + 1))
    nobody = 2**22 + 1  # above the largest process number
    with database.transaction() as session:
        retraining.end_run(session, run.id, RetrainingState.FAILED, "", NOON)
        run = retraining.request_run(session, "one", NOON)
        other = retraining.begin_run(session, run.id, None, socket.gethostname(), nobody, NOON)
    assert is_gone(other, NOON)
