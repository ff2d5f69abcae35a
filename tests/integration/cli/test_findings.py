"""`iap-node findings`: what people type, what they read, and that no header text can do harm on the way."""

from __future__ import annotations

import csv
import io
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
from typer.testing import CliRunner

from iap_node.cli import app
from iap_node.cli import findings as findings_command
from iap_node.database import archive, findings
from iap_node.database.engine import Database
from iap_node.database.reception import Arrival, record_instances
from iap_node.records import (
    Finding,
    FindingKind,
    InstanceHeader,
    ReceivedInstance,
    Severity,
    Testimony,
    Witness,
)

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
HOSTILE = "=HYPERLINK(1)\x1b[31m[bold]\x00\u202e"
ME = pwd.getpwuid(os.getuid()).pw_name


ONLY_FINDINGS = typer.Typer()  # building all commands anew for each run takes longer than running one
findings_command.add_to(ONLY_FINDINGS)


class Node:
    """A node's configuration and database, and its commands."""

    def __init__(self, folder: Path, migrated: Path) -> None:
        shutil.copyfile(migrated, folder / "node.sqlite")
        self.config = folder / "config.yaml"
        self.config.write_text(f"data_dir: {folder}\n")
        self.database = Database(f"sqlite:///{folder / 'node.sqlite'}")

    def run(self, *arguments: str, code: int = 0, input: str | None = None) -> Any:
        command = ["findings", *arguments, "--config", str(self.config)]
        result = CliRunner(env={"COLUMNS": "300"}).invoke(ONLY_FINDINGS, command, input=input)
        assert result.exit_code == code, (result.output, result.exception)
        return result

    def json(self, *arguments: str) -> Any:
        return json.loads(self.run(*arguments, "--json").stdout)

    def states(self) -> dict[int, str]:
        return {one["id"]: one["state"] for one in self.json("--any-state")}

    def record(self, series: int, *shown: Finding, **header: Any) -> None:
        instance = ReceivedInstance(
            InstanceHeader("1.2.840.10008.5.1.4.1.1.4", f"1.9.{series}", f"1.7.{series}", f"1.8.{series}",
                           "1.2.840.10008.1.2.1", modality="MR", **header),
            f"{series}.dcm", f"{series:064}", 1000, "SCANNER", "127.0.0.1", NOON,
        )  # fmt: skip
        with self.database.transaction() as session:
            record_instances(session, [Arrival(instance, "c0ffee")])
        with self.database.transaction() as session:
            found = archive.find_series(session, f"1.8.{series}")
            findings.record(session, found.id, 1, shown, NOON + timedelta(days=series))


def found(element: str = "EchoTime", check: str = "not-a-number", **changes: Any) -> Finding:
    values = {
        "kind": FindingKind.REPRESENTATION, "severity": Severity.WARNING, "evidence": f"{element} is '2,5'",
        "raw": "2,5", "suggested_value": "2.5", "conclusion": "by the standard: probably 2.5",
        "testimonies": (Testimony(Witness.STANDARD, True, "a comma", value="2.5"),
                        Testimony(Witness.PIXELS, False, "the pixels allow it", 0.25)),
    } | changes  # fmt: skip
    return Finding(element, check, **values)


@pytest.fixture
def node(tmp_path: Path, migrated_sqlite: Path) -> Iterator[Node]:
    """Four findings: two of a Skyra, one hostile, one that nobody knows the right value of."""
    made = Node(tmp_path, migrated_sqlite)
    skyra = {"manufacturer": "SIEMENS", "manufacturer_model_name": "Skyra", "device_serial_number": "77"}
    made.record(1, found(), found("FlipAngle", severity=Severity.ERROR), **skyra)
    made.record(2, found("ProtocolName", raw=HOSTILE, evidence=HOSTILE, conclusion=HOSTILE), series_description=HOSTILE)
    made.record(3, found("ScanOptions", "defined-terms", suggested_value=None, kind=FindingKind.VALUE))
    yield made
    made.database.dispose()


def test_alone_it_lists_what_is_open_the_worst_first(node: Node) -> None:
    assert [one["element"] for one in node.json()] == ["FlipAngle", "ScanOptions", "ProtocolName", "EchoTime"]
    shown = node.run().stdout
    assert "4 shown of 1 error, 3 warnings, 0 notes" in shown
    assert shown.index("FlipAngle") < shown.index("ScanOptions") < shown.index("EchoTime")
    assert node.json("list") == node.json()


def test_filters_and_pages(node: Node) -> None:
    assert [one["element"] for one in node.json("list", "--scanner", "77")] == ["FlipAngle", "EchoTime"]
    assert [one["element"] for one in node.json("--severity", "error")] == ["FlipAngle"]
    assert [one["element"] for one in node.json("--kind", "value")] == ["ScanOptions"]
    assert [one["element"] for one in node.json("--series", "1.8.2")] == ["ProtocolName"]
    assert [one["element"] for one in node.json("--since", "2026-03-04")] == ["ScanOptions"]
    assert [one["element"] for one in node.json("--element", "EchoTime", "--check", "not-a-number")] == ["EchoTime"]
    assert node.json("--witness", "habit") == node.json("--state", "gone") == []
    first = node.run("--limit", "3", "--order", "oldest").stdout
    last = [one["id"] for one in node.json("--limit", "3", "--order", "oldest")][-1]
    assert f"--after {last}" in first
    assert [one["element"] for one in node.json("--order", "oldest", "--after", str(last))] == ["ScanOptions"]
    assert "no more findings" not in node.run("--state", "gone").stdout
    assert "iap-node findings" in node.run("--after", "4711", code=4).stderr
    assert "no series here" in node.run("--scanner", "Trio", code=4).stderr
    assert "did you mean EchoTime?" in node.run("--element", "Echotime", code=4).stderr
    assert "there is no check 'nonsense'" in node.run("--check", "nonsense", code=4).stderr
    node.run("--series", "9.9.9", code=4)
    node.run("--state", "open", "--any-state", code=2)


def test_options_before_a_command_are_refused_instead_of_forgotten(node: Node) -> None:
    command = ["findings", "--check", "not-a-number", "dismiss", "--config", str(node.config)]
    assert CliRunner().invoke(ONLY_FINDINGS, command).exit_code == 2
    assert set(node.states().values()) == {"open"}


def test_one_is_shown_with_all_witnesses_their_numbers_and_its_history(node: Node) -> None:
    (echo,) = node.json("--element", "EchoTime")
    shown = node.run("show", str(echo["id"])).stdout
    for text in ("Echo Time (0018,0081)", "2,5", "0.25", "the pixels allow it", "found in revision 1", "Skyra"):
        assert text in shown
    content = node.json("show", str(echo["id"]))
    assert content["finding"] == echo
    assert [event["state"] for event in content["events"]] == ["open"]
    assert "iap-node findings" in node.run("show", "4711", code=4).stderr


def test_hostile_header_text_is_harmless_on_a_terminal_and_in_a_spreadsheet(node: Node, tmp_path: Path) -> None:
    (hostile,) = node.json("--element", "ProtocolName")
    pages = [node.run().stdout, node.run("show", str(hostile["id"])).stdout]
    shown = CliRunner().invoke(app, ["show", "1.8.2", "--config", str(node.config)])
    for page in (*pages, shown.stdout):
        assert not any(character in page for character in "\x1b\x00\u202e")
        assert "[31m[bold]" in page
    node.run("export", str(tmp_path / "all.csv"))
    node.run("export", str(tmp_path / "all.json"), "--any-state")
    with (tmp_path / "all.csv").open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert len(lines) == 4
    assert not any(cell.startswith(("=", "+", "-", "@", "\t")) for line in lines for cell in line.values() if cell)
    assert {line["element"]: line["suggested_value"] for line in lines}["ScanOptions"] == ""
    objects = json.loads((tmp_path / "all.json").read_text())
    assert {one["id"]: one["raw"] for one in objects}[hostile["id"]] == hostile["raw"]
    assert "\x1b" not in (tmp_path / "all.json").read_text()


def test_export_goes_to_standard_output_and_says_when_it_cannot(node: Node, tmp_path: Path) -> None:
    text = node.run("export", "-", "--format", "csv", "--element", "EchoTime").stdout
    assert [line["element"] for line in csv.DictReader(io.StringIO(text))] == ["EchoTime"]
    node.run("export", str(tmp_path / "findings.txt"), code=2)
    refused = node.run("export", str(tmp_path / "no" / "such.csv"), code=1)
    assert "cannot write" in refused.stderr
    assert [path.name for path in tmp_path.iterdir() if "part" in path.name] == []


def test_people_accept_dismiss_and_reopen(node: Node) -> None:
    number = {one["element"]: str(one["id"]) for one in node.json()}
    assert node.json("accept", number["EchoTime"]) == {"n_decided": 1, "n_other_state": 0, "n_nothing_suggested": 0}
    node.run("accept", number["FlipAngle"], "--value", "12", "--reason", "seen", "--as", "ada")
    assert "nothing is suggested" in node.run("accept", number["ScanOptions"], code=1).stderr
    node.run("accept", number["ScanOptions"], "--no-value")
    node.run("dismiss", number["ProtocolName"], code=2)
    node.run("dismiss", number["ProtocolName"], "--reason", "a phantom")
    content = {name: node.json("show", one) for name, one in number.items()}
    decided = {name: (one["finding"]["state"], one["finding"]["accepted_value"]) for name, one in content.items()}
    assert decided == {
        "EchoTime": ("accepted", "2.5"), "FlipAngle": ("accepted", "12"), "ScanOptions": ("accepted", None),
        "ProtocolName": ("dismissed", None),
    }  # fmt: skip
    assert [content[name]["events"][-1]["who"] for name in ("EchoTime", "FlipAngle")] == [ME, "ada"]
    node.run("reopen", number["EchoTime"], number["ProtocolName"], "--reason", "hasty")
    assert "cannot become open" in node.run("reopen", number["EchoTime"], code=1).stderr
    assert "no finding 4711" in node.run("dismiss", "4711", number["EchoTime"], "-r", "x", code=4).stderr
    assert node.states()[int(number["EchoTime"])] == "open"


def test_many_are_decided_by_a_filter_after_asking(node: Node) -> None:
    node.run("dismiss", "--reason", "x", code=2)  # of everything there is: never by accident
    node.run("accept", "1", "--scanner", "77", code=2)
    node.run("accept", "--value", "1", "--no-value", "1", code=2)
    asked = node.run("accept", "--check", "not-a-number", "--check", "defined-terms", input="n\n", code=1)
    assert "Make 4 findings accepted?" in asked.output
    decided = node.json("accept", "--check", "not-a-number", "--check", "defined-terms", "--yes")
    assert decided == {"n_decided": 3, "n_other_state": 0, "n_nothing_suggested": 1}
    assert "3 findings are open now" in node.run("reopen", "--witness", "standard", "--yes").stdout


def test_a_rule_is_made_listed_and_withdrawn(node: Node) -> None:
    about = ("--rule", "--check", "not-a-number", "--scanner", "77", "--reason", "a German keyboard")
    made = node.json("dismiss", *about, "--yes")
    assert made["dismissed"] == 2 and made["rule"]["scanner"]["device_serial_number"] == "77"
    node.record(4, found(), device_serial_number="77")
    assert [one["series_instance_uid"] for one in node.json("--element", "EchoTime", "--state", "dismissed")] == [
        "1.8.4", "1.8.1",
    ]  # fmt: skip
    (listed,) = node.json("rules", "list")
    assert (listed["n_dismissed"], listed["made_by"], listed["reason"]) == (3, ME, "a German keyboard")
    assert "a German keyboard" in node.run("rules", "list").stdout
    assert node.json("rules", "withdraw", str(listed["id"]))["reopened"] == 3
    assert "not in force" in node.run("rules", "withdraw", str(listed["id"]), code=4).stderr
    assert node.json("rules", "list") == [] and len(node.json("rules", "list", "--withdrawn")) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("--check", "not-a-nmber"), 4, "did you mean not-a-number?"),
        (("--scanner", "77"), 2, "one --check"),
        (("--check", "not-a-number", "--severity", "note"), 2, "no more"),
        (("--check", "not-a-number", "--scanner", "Trio"), 4, "no series here"),
    ],
)
def test_a_rule_that_would_dismiss_nothing_or_too_much_is_refused(
    node: Node, arguments: tuple[str, ...], code: int, says: str
) -> None:
    refused = node.run("dismiss", "--rule", "--yes", "--reason", "x", *arguments, code=code)
    assert says in " ".join(refused.output.replace("│", " ").split())
    assert node.json("rules", "list") == []


def test_a_series_is_shown_with_its_findings_and_their_states(node: Node) -> None:
    node.run("dismiss", "--series", "1.8.1", "--element", "EchoTime", "--reason", "x", "--yes")
    shown = CliRunner().invoke(app, ["show", "1.8.1", "--config", str(node.config), "--json"])
    assert {one["element"]: one["state"] for one in json.loads(shown.stdout)["findings"]} == {
        "FlipAngle": "open", "EchoTime": "dismissed",
    }  # fmt: skip
