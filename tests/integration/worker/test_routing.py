"""The rules at work in the INFER handler: findings and sender decide, a changed file is followed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from iap_node.config import load_config
from iap_node.database import routes
from iap_node.records import JobKind, JobState, RouteOutcome
from iap_node.routing.rules_file import RulesFile
from iap_node.worker.infer import InferHandler
from iap_node.worker.loop import run_once
from tests.integration.worker.conftest import CONTENT, Node, ScriptedPredictor

HOLD = {"doubts": {"when": {"finding": "pixels-contradict"}, "hold": "the pixels contradict the header"}}


def with_rules(**rules: Any) -> dict[str, Any]:
    return {"routing": {**CONTENT["routing"], "rules": rules}}


def test_a_contradicted_series_is_held_and_delivered_once_released(
    make_node: Callable[..., Node], scripted: Callable[..., ScriptedPredictor], write_instance: Any
) -> None:
    node = make_node(**with_rules(**HOLD))
    series_id = node.complete([write_instance(Manufacturer="GE MEDICAL SYSTEMS") for _ in range(3)])
    assert node.infer(scripted())
    decision = node.judgement().decision
    assert decision.held == "the pixels contradict the header"
    assert decision.routes[0].condition.observed == "pixels-contradict of Manufacturer (warning, open)"
    assert node.jobs(JobKind.DELIVER) == [] and node.series().held
    with node.database.transaction() as session:
        routes.release(session, series_id, "Ada", "", node.judgement().judged_at)
    assert [(job.destination, job.state) for job in node.jobs(JobKind.DELIVER)] == [("lesions", JobState.READY)]


def test_a_novel_series_leaves_what_the_pixels_might_have_found_unknown(
    make_node: Callable[..., Node], scripted: Callable[..., ScriptedPredictor], write_instance: Any
) -> None:
    node = make_node(**with_rules(**HOLD))
    node.complete([write_instance(Manufacturer="GE MEDICAL SYSTEMS")])
    assert node.infer(scripted(novel=True))
    decision = node.judgement().decision
    assert decision.routes[0].outcome is RouteOutcome.UNKNOWN
    assert "none, but not heard: pixels" in decision.reason
    assert [job.destination for job in node.jobs(JobKind.DELIVER)] == ["people"]


def test_rules_that_change_while_the_worker_runs_decide_the_next_series_and_are_kept(
    make_node: Callable[..., Node], scripted: Callable[..., ScriptedPredictor], write_instance: Any, tmp_path: Path
) -> None:
    node = make_node()
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(CONTENT))
    os.utime(path, (1, 1))
    rules = RulesFile(path, load_config(path), node.database)
    handler = InferHandler(node.database, node.spool, scripted(), node.config, rules)
    versions = []
    for content in ({}, with_rules(all={"when": {"series": "CallingAETitle", "equals": "scanner"},
                                        "destinations": ["people"], "priority": 1, "stop": True})):  # fmt: skip
        path.write_text(yaml.safe_dump(CONTENT | content))
        os.utime(path, (2 + len(versions),) * 2)
        node.complete([write_instance()])
        assert run_once(JobKind.INFER, handler, node.database, node.config.jobs, "test:infer")
        versions.append(node.judgement().decision)
    assert [decision.by for decision in versions] == [("lesion_finder",), ("all",)]
    with node.database.reading() as session:
        assert all(routes.rules_of(session, decision.rules_version) for decision in versions)
