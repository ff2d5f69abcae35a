"""`why`, `held`, `hold`, `release`, `reroute`, `rejudge`, `replay`, `coverage`: what people type and read.

Hostile headers included.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

from iap_node.cli import app
from iap_node.cli.routing import since_time
from iap_node.config import load_config
from iap_node.database import accounts, archive, jobs, results, routes
from iap_node.database.engine import Database
from iap_node.database.reception import Arrival, record_instances
from iap_node.database.timeline import timeline
from iap_node.records import (
    InstanceHeader,
    JobKind,
    ParameterKind,
    ParameterPrediction,
    ReceivedInstance,
    RoutingEvidence,
    SeriesHeader,
    SeriesPrediction,
)
from iap_node.routing.rules import Rules, rules_text

HOSTILE = "odd =HYPERLINK(1)\x1b[31m[bold]\x00\u202e"
ME = pwd.getpwuid(os.getuid()).pw_name
CONTENT: dict[str, Any] = {
    "destinations": {
        name: {"ae_title": name.upper(), "host": "127.0.0.1", "port": 1} for name in ("lesions", "trial", "people")
    },
    "routing": {
        "domains": {
            "siemens": {
                "all": [
                    {"parameter": "Manufacturer", "equals": "SIEMENS"},
                    {"any": [{"series": "Modality", "equals": "MR"}, {"header": "EchoTime", "missing": True}]},
                ]
            }
        },
        "downstream_models": {
            "lesion_finder": {"domain": "siemens", "destinations": ["lesions"], "contact": "Dr Example"},
            "newcomer": {"domain": "siemens", "destinations": ["trial"], "shadow": True},
        },
        "rules": {
            "odd": {"when": {"series": "SeriesDescription", "matches": "^odd"}, "hold": "odd name", "priority": 5}
        },
        "default": {"destinations": ["people"]},
    },
}


class Node:
    """A node's configuration and database, and its commands."""

    def __init__(self, folder: Path, migrated: Path) -> None:
        (folder / "spool").mkdir()
        shutil.copyfile(migrated, folder / "node.sqlite")
        self.config = folder / "config.yaml"
        self.config.write_text(yaml.safe_dump({"data_dir": str(folder), **CONTENT}))
        self.database = Database(f"sqlite:///{folder / 'node.sqlite'}")

    def run(self, *arguments: str, code: int = 0) -> Any:
        result = CliRunner(env={"COLUMNS": "300"}).invoke(app, [*arguments, "--config", str(self.config)])
        assert result.exit_code == code, (result.output, result.exception)
        return result

    def json(self, *arguments: str) -> Any:
        return json.loads(self.run(*arguments, "--json").stdout)

    def receive(self, series: int, description: str) -> None:
        now = datetime.now(UTC)
        instance = ReceivedInstance(
            InstanceHeader("1.2.840.10008.5.1.4.1.1.4", f"1.9.{series}", f"1.7.{series}", f"1.8.{series}",
                           "1.2.840.10008.1.2.1", modality="MR", series_description=description),
            f"{series}.dcm", f"{series:064}", 1000, "SCANNER", "127.0.0.1", now,
        )  # fmt: skip
        with self.database.transaction() as session:
            record_instances(session, [Arrival(instance, "c0ffee")])

    def judge(self, series: int, description: str, siemens: float) -> None:
        self.receive(series, description)
        now = datetime.now(UTC)
        with self.database.transaction() as session:
            archive.complete_series(session, [f"1.8.{series}"], now)
            job = jobs.claim(session, JobKind.INFER, "test", 60.0, now)
            assert job is not None
            vendors = (("SIEMENS", siemens), ("GE MEDICAL SYSTEMS", 1.0 - siemens))
            parameter = ParameterPrediction("Manufacturer", ParameterKind.CATEGORICAL, probabilities=vendors)
            prediction = SeriesPrediction("model-1", "test", False, 1.0, 4.5, 8, (parameter,))
            header = SeriesHeader(())
            rules = Rules(load_config(self.config).routing)
            routes.save_rules(session, rules.version, rules_text(rules.config), now)
            facts = routes.series_facts(session, job.series_id)
            decision = rules.decide(RoutingEvidence(prediction, "", header, (), facts, ()))
            results.save_judgement(
                session, job, header=header, prediction=prediction, comparisons=(), decision=decision, problems=(),
                not_analysed_reason=None, now=now,
            )  # fmt: skip


@pytest.fixture
def node(tmp_path: Path, migrated_sqlite: Path) -> Iterator[Node]:
    """A routed series, one between the domains, and a held one with a hostile description."""
    made = Node(tmp_path, migrated_sqlite)
    made.judge(1, "t1", 0.95)
    made.judge(2, "t2", 0.6)
    made.judge(3, HOSTILE, 0.95)
    yield made
    made.database.dispose()


def test_why_shows_every_rule_and_condition_with_value_probability_and_truth(node: Node) -> None:
    shown = node.run("why", "1.8.1").stdout
    for text in (
        "Route: lesion_finder -> lesions, trial (shadow)",
        "siemens: true, p = 0.950 of 0.8",
        "Manufacturer = SIEMENS: true, p = 0.950; the pixels: SIEMENS (0.95)",
        "any of: true",
        "Modality = MR: true; the archive: MR",
        "header: Echo Time is missing: true; the header: missing",
        "rule odd (priority 5): does not apply",
        "Series Description matches '^odd': false; the archive: t1",
        "downstream model lesion_finder (priority 0): applies, p = 0.950 of 0.8 -> lesions",
        "lesions (pending)",
        "trial (shadow, pending)",
    ):
        assert text in shown, (text, shown)
    told = node.json("why", "1.8.1")
    assert told["decision"]["routes"][0]["condition"]["truth"] == "false"
    assert told["rules"]["rules"]["odd"]["hold"] == "odd name"
    assert told["decision"]["rules_version"] in shown
    between = node.run("why", "1.8.2").stdout
    assert "Route: default route -> people" in between and "siemens: unknown, p = 0.600" in between


def test_why_of_a_series_that_waits_for_its_judgement_says_so(node: Node) -> None:
    node.receive(9, "new")
    assert "was not judged yet" in node.run("why", "1.8.9", code=4).stderr
    node.run("why", "4.4.4", code=4)


def test_a_held_series_is_seen_and_released(node: Node) -> None:
    assert [one["series_instance_uid"] for one in node.json("held")] == ["1.8.3"]
    assert "lesions, trial (shadow)" in node.run("held").stdout
    assert "waits for a person" in node.run("why", "1.8.3").stdout
    assert node.json("status")["held"] == 1
    node.run("status", "--check", code=5)
    assert node.json("release", "1.8.3", "--reason", "fine")["destinations"] == ["lesions", "trial"]
    assert node.json("held") == []
    assert "no series waits" in node.run("held").stdout
    shown = node.run("why", "1.8.3").stdout
    assert f"{ME} released revision 1 to lesions, trial: fine" in shown
    assert "iap-node held" in node.run("release", "1.8.3", code=4).stderr


def test_a_person_holds_a_series_with_a_reason_and_lets_it_go(node: Node) -> None:
    node.run("hold", "1.8.1", code=2)
    node.run("hold", "1.8.1", "--reason", " ", code=2)
    assert node.json("hold", "1.8.1", "--reason", "wrong patient?", "--as", "Ada")["under_way"] == 0
    assert "held by Ada: wrong patient?" in node.run("hold", "1.8.1", "-r", "me too", code=1).exception.args[0]
    waiting = {one["series_instance_uid"]: one["held"] for one in node.json("held")}
    assert waiting == {"1.8.1": "held by Ada: wrong patient?", "1.8.3": "odd name"}
    assert "waits for a person, held by Ada: wrong patient?" in node.run("why", "1.8.1").stdout
    assert node.json("release", "1.8.1", "--reason", "it is she")["destinations"] == ["lesions", "trial"]
    with node.database.reading() as session:
        told = [(line.who, line.action, line.detail) for line in accounts.trail(session)]
    assert told == [(ME, "release series", "lesions, trial"), ("Ada", "hold series", "wrong patient?")]


def test_series_are_judged_again_by_name_since_a_time_or_all(node: Node) -> None:
    """Those that wait already are passed over; a named one that cannot be is said to."""
    node.run("rejudge", code=2)
    node.run("rejudge", "1.8.1", "--all", code=2)
    node.run("rejudge", "4.4.4", code=4)
    assert node.json("rejudge", "1.8.1", "-r", "a new model", "--as", "Ada")["queued"] == 1
    assert "waits for its judgement" in node.run("rejudge", "1.8.1", code=1).stderr
    assert "in the queue" not in node.run("rejudge", "--all", code=1).stdout  # nobody answered the question
    assert node.json("rejudge", "--since", "1d", "--yes") == {"queued": 2, "wait_already": 0, "bytes_gone": 0}
    assert node.json("rejudge", "--all", "--yes")["queued"] == 0
    with node.database.reading() as session:
        number = archive.find_series(session, "1.8.1").id
        told = [one.what for one in timeline(session, number) if one.who == "Ada"]
    assert told == ["to be judged again, revision 2: a new model"]


def test_reroute_takes_known_destinations_and_says_who_did_it(node: Node) -> None:
    refused = node.run("reroute", "1.8.3", "--to", "peeple", code=2)
    assert "did you mean 'people'?" in refused.stderr
    done = node.json("reroute", "1.8.3", "--to", "people", "--to", "lesions", "--as", "Ada")
    assert done["destinations"] == ["people", "lesions"]
    assert "Ada rerouted revision 1 to people, lesions" in node.run("why", "1.8.3").stdout
    assert {one["destination"]: one["shadow"] for one in node.json("why", "1.8.3")["deliveries"]} == {
        "people": False,
        "lesions": False,
    }


def test_replay_says_what_other_rules_would_do_and_sends_nothing(node: Node, tmp_path: Path) -> None:
    other = tmp_path / "new.yaml"
    routing = {**CONTENT["routing"], "rules": {"all": {"when": {"series": "Modality", "equals": "MR"},
                                                        "destinations": ["people"], "stop": True}}}  # fmt: skip
    other.write_text(yaml.safe_dump({"routing": routing}))
    before = node.json("jobs")
    told = node.json("replay", "--rules", str(other), "--since", "1d")
    assert (told["series"], told["elsewhere"]) == (3, 2)
    assert {way["before"]["route"]: way["after"]["route"] for way in told["ways"]} == {
        "lesion_finder": "all",
        "default route": "all",
    }
    assert sorted(one["series_instance_uid"] for one in told["examples"]) == ["1.8.1", "1.8.3"]
    shown = node.run("replay", "--rules", str(other), "--limit", "1").stdout
    assert "2 of 3 series would go elsewhere (the first 1 are shown); nothing was sent" in shown
    assert "\x1b" not in shown and "\u202e" not in shown
    assert node.json("jobs") == before
    whole = node.json("replay", "--rules", str(node.config))
    assert (whole["series"], whole["elsewhere"]) == (3, 0)


def test_replay_by_rules_that_are_not_valid_names_the_key(node: Node, tmp_path: Path) -> None:
    wrong = tmp_path / "new.yaml"
    wrong.write_text(yaml.safe_dump({"routing": {"default": {"destinations": ["peple"]}}}))
    result = CliRunner().invoke(app, ["replay", "--rules", str(wrong), "--config", str(node.config)])
    assert "'peple' is not defined; did you mean 'people'?" in str(result.exception)


def test_check_config_names_findings_that_no_check_makes(node: Node) -> None:
    assert "no check has" not in node.run("check-config").stdout
    rules = {"r": {"when": {"any": [{"finding": "pixels-contradic"}, {"finding": "habit-deviates"}]}, "stop": True}}
    content = yaml.safe_load(node.config.read_text())
    node.config.write_text(yaml.safe_dump(content | {"routing": {"rules": rules}}))
    shown = node.run("check-config").stdout
    assert "findings of 'pixels-contradic', which no check has; did you mean 'pixels-contradict'?" in shown
    assert shown.count("no check has") == 1


def test_coverage_shows_models_gaps_and_who_answers_for_them(node: Node) -> None:
    told = node.json("coverage", "--since", "30d")
    assert (told["n_series"], told["n_with_model"], told["n_default"], told["n_held"]) == (3, 2, 1, 1)
    assert [(one["model"], one["n_series"], one["shadow"]) for one in told["models"]] == [
        ("lesion_finder", 2, False),
        ("newcomer", 2, True),
    ]
    shown = node.run("coverage").stdout
    for text in ("Dr Example", "newcomer (shadow)", "66.7 %", "1.8.2", "3 series: 2 had a model"):
        assert text in shown, text
    assert "none: it starves" in node.run("coverage", "--since", "2999-01-01").stdout


def test_lists_show_what_is_held_and_what_is_a_shadow(node: Node) -> None:
    shown = node.run("routes").stdout
    assert "trial (shadow, pending)" in shown and "held" in shown
    assert [one["held"] for one in node.json("routes")] == [True, False, False]
    assert "once released: lesions" in node.run("show", "1.8.3").stdout


@pytest.mark.parametrize(
    ("text", "ago"), [("30d", timedelta(days=30)), ("12h", timedelta(hours=12)), ("4w", timedelta(days=28))]
)
def test_since_is_how_long_ago(text: str, ago: timedelta) -> None:
    now = datetime(2026, 3, 1, tzinfo=UTC)
    assert since_time(text, now) == now - ago
    assert since_time("2026-02-01T00:00:00+00:00", now) == datetime(2026, 2, 1, tzinfo=UTC)
    for wrong in ("30x", "yesterday", "", "-3d"):
        with pytest.raises(typer.BadParameter, match="30d"):
            since_time(wrong, now)
