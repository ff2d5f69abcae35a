"""The quarantine as its users see it: listed with reasons, looked at, filed again, deleted."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from iap_node.spool import Spool
from iap_node.upkeep import quarantine
from tests.acceptance.commands import run_command
from tests.acceptance.conftest import RunningNode


@pytest.fixture
def node(make_node: Callable[..., RunningNode]) -> RunningNode:
    """A node that was initialised and does not run."""
    node = make_node()
    assert node.command("init").returncode == 0
    return node


def put_aside(node: RunningNode, content: bytes, reason: str, sop_instance_uid: str = "") -> None:
    """As the listener does it."""
    spool, database = Spool(node.config.spool_dir), node.database()
    file = spool.new_file()
    file.write(content)
    facts = {"reason": reason, "sop_instance_uid": sop_instance_uid, "calling_ae_title": "SCANNER"}
    quarantine.put_aside(spool, database, file, facts | {"source_address": "10.0.0.9"}, datetime.now(UTC))
    database.dispose()


@pytest.fixture
def sound(mr_real: Path) -> bytes:
    """A real instance."""
    return sorted((mr_real / "canon_galan3t_v61_dti_axial").iterdir())[0].read_bytes()


def answer(node: RunningNode, keys: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command that asks, and what a person types."""
    return run_command([*arguments, "--config", str(node.config_path)], stdin=keys)


def test_the_quarantine_is_listed_with_reasons_and_shown_one_by_one(node: RunningNode, sound: bytes) -> None:
    assert node.json("quarantine", "list") == []
    put_aside(node, sound[:300], "cut short", "1.2.3")
    put_aside(node, sound, "an older version could not read it")
    newest, oldest = node.json("quarantine", "list")
    assert (oldest["reason"], oldest["sop_instance_uid"]) == ("cut short", "1.2.3")
    assert oldest["calling_ae_title"] == "SCANNER"
    assert "cut short" in node.command("quarantine", "list").stdout
    broken = node.json("quarantine", "show", str(oldest["id"]))
    assert broken["retry"]["obstacle"] == "unreadable" and broken["retry"]["reason"]
    assert Path(broken["path"]).read_bytes() == sound[:300]
    assert node.json("quarantine", "show", str(newest["id"]))["retry"]["obstacle"] is None
    shown = node.command("quarantine", "show", str(newest["id"]))
    assert shown.returncode == 0 and "it would be filed" in shown.stdout


def test_what_can_be_filed_now_leaves_the_quarantine_and_the_rest_stays_with_its_reason(
    node: RunningNode, sound: bytes
) -> None:
    put_aside(node, sound[:300], "cut short")
    put_aside(node, sound, "an older version could not read it")
    tried = node.command("quarantine", "retry", "--all", "--json")
    assert tried.returncode == 1
    result = json.loads(tried.stdout)
    assert (result["stored"], result["unreadable"]) == (1, 1)
    (left,) = node.json("quarantine", "list")
    assert left["id"] == result["stays"][0]["entry_id"]
    assert node.json("status")["quarantine"] == 1
    assert len(node.json("series")) == 1
    assert "stays, unreadable" in node.command("quarantine", "retry", str(left["id"])).stdout


def test_a_mismatched_instance_is_filed_only_with_the_option_that_says_so(node: RunningNode, sound: bytes) -> None:
    put_aside(node, sound, "SOP Instance UID: the C-STORE-RQ says otherwise", "1.2.3")
    refused = node.command("quarantine", "retry", "--all")
    assert refused.returncode == 1 and "--trust-data-set" in refused.stdout
    assert node.json("quarantine", "retry", "--all", "--trust-data-set")["stored"] == 1
    assert node.json("quarantine", "list") == []


def test_deleting_asks_first_and_takes_the_bytes_along(node: RunningNode, sound: bytes) -> None:
    put_aside(node, sound[:300], "cut short")
    put_aside(node, sound[:400], "cut short")
    first = str(node.json("quarantine", "list")[1]["id"])
    declined = answer(node, "n\n", "quarantine", "delete", first)
    assert declined.returncode != 0 and "1 quarantined instances" in declined.stderr
    assert len(node.json("quarantine", "list")) == 2
    assert answer(node, "y\n", "quarantine", "delete", first).returncode == 0
    assert len(node.json("quarantine", "list")) == 1
    assert node.json("quarantine", "delete", "--all", "--yes") == {"deleted": 1}
    assert [path for path in (node.config.spool_dir / "quarantine").rglob("*") if path.is_file()] == []


def test_an_entry_that_is_not_there_and_a_command_without_entries_have_their_exit_codes(node: RunningNode) -> None:
    for command in (("show", "7"), ("retry", "7"), ("delete", "7", "--yes")):
        asked = node.command("quarantine", *command)
        assert asked.returncode == 4 and "no entry 7" in asked.stderr
    assert node.command("quarantine", "retry").returncode == 2
    assert node.command("quarantine", "delete", "--all", "7").returncode == 2


def test_nothing_of_the_patient_is_printed(node: RunningNode, sound: bytes) -> None:
    import pydicom

    path = node.folder / "named.dcm"
    path.write_bytes(sound)
    ds = pydicom.dcmread(path)
    ds.PatientName, ds.PatientID, ds.PatientBirthDate = "Doe^Jane", "HOSPITAL-4711", "19610102"
    ds.save_as(path)
    put_aside(node, path.read_bytes(), "SOP Instance UID: the C-STORE-RQ says otherwise", "1.2.3")
    shown = "".join(
        node.command("quarantine", *command, *form).stdout
        for form in ((), ("--json",))
        for command in (("list",), ("show", "1"), ("retry", "1"))
    )
    assert "1.2.3" in shown
    assert not any(word in shown for word in ("Doe", "4711", "19610102"))
