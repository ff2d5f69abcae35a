"""What pages do, by programs: rules, decisions on all that a filter admits, destinations, people, files, reports.

What each action does is tested where the pages' are; that no request breaks it, in test_api_schema.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update
from starlette.testclient import TestClient

from iap_node.config import load_config
from iap_node.database import accounts, jobs
from iap_node.database.engine import Database
from iap_node.database.tables import JobRow
from iap_node.listener.folder import ImportedFile, import_files
from iap_node.listener.intake import Intake
from iap_node.listener.reception import Request
from iap_node.records import JobState, Role
from iap_node.spool import Spool
from iap_node.web.node import WebNode
from iap_node.web.secrets import hash_token
from tests.integration.audit.simulated_archive import Series, file, finding
from tests.integration.listener.conftest import encode, make_instance
from tests.integration.web.test_upload import part10

CONFIG = """\
data_dir: data
spool: {disk_reserve_mb: 0}
routing:   # ours
  default: {destinations: []}
destinations:
  people: {kind: folder, path: out}
"""
NEW = "routing:\n  default: {destinations: [people]}  # all of it\n"

Program = Callable[[Role], TestClient]


@pytest.fixture
def database(migrated_sqlite: Path, tmp_path: Path) -> Iterator[Database]:
    """SQLite alone: what is said to the database here is tested with it on both."""
    opened = Database(f"sqlite:///{shutil.copyfile(migrated_sqlite, tmp_path / 'node.sqlite')}")
    yield opened
    opened.dispose()


@pytest.fixture
def web_node(database: Database, tmp_path: Path) -> WebNode:
    """Of a configuration file, with three series, one of them with a finding."""
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG)
    config = load_config(path)
    config.spool_dir.mkdir(parents=True)
    now = datetime.now(UTC)
    with database.transaction() as session:
        for number in (1, 2, 3):
            file(session, Series(number, now, findings=(finding(),) if number == 1 else ()))
    return WebNode(config, path, database, Spool(config.spool_dir))


def trail(node: WebNode) -> list[tuple[str, str]]:
    """Actions and subjects of the audit trail, the first one first."""
    with node.database.reading() as session:
        return [(one.action, one.subject) for one in reversed(accounts.trail(session))]


def test_rules_are_read_checked_replayed_and_saved(web_node: WebNode, program: Program) -> None:
    operator = program(Role.OPERATOR)
    before = operator.get("/api/v1/rules").json()
    assert before["text"].startswith("routing:   # ours") and before["problems"] == []
    wrong = operator.post("/api/v1/rules/check", json={"text": NEW.replace("people", "nobody")}).json()
    assert not wrong["valid"] and "nobody" in wrong["problems"][0] and wrong["rules_version"] is None
    save = {"text": NEW, "file_version": before["file_version"], "replayed": before["rules_version"]}
    refused = operator.put("/api/v1/rules", json=save)
    assert refused.status_code == 409 and "not replayed" in refused.json()["detail"]
    replayed = operator.post("/api/v1/rules/replay", json={"text": NEW, "days": 1}).json()
    assert (replayed["replayed"], replayed["elsewhere"], len(replayed["examples"])) == (3, 3, 3)
    done = operator.put("/api/v1/rules", json=save | {"replayed": replayed["rules_version"]})
    assert done.json() == {"rules_version": replayed["rules_version"]}
    assert web_node.config_path is not None
    assert web_node.config_path.read_text() == CONFIG.replace("routing:   # ours\n  default: {destinations: []}\n", NEW)
    assert operator.get("/api/v1/rules").json()["rules_version"] == replayed["rules_version"]
    again = operator.put("/api/v1/rules", json=save | {"replayed": replayed["rules_version"]})
    assert again.status_code == 409 and "was changed" in again.json()["detail"]
    assert program(Role.VIEWER).post("/api/v1/rules/check", json={"text": NEW}).status_code == 403
    assert ("change rules", replayed["rules_version"]) in trail(web_node)


def test_all_findings_of_a_filter_are_decided_once_their_number_was_seen(
    web_node: WebNode, program: Program
) -> None:
    physicist = program(Role.PHYSICIST)
    asked: dict[str, Any] = {"which": {"states": ["open"]}, "state": "dismissed", "reason": "of a phantom"}
    url = "/api/v1/findings/decisions/all"
    assert physicist.post(url, json=asked).json()["matching"] == 1
    assert physicist.post(url, json=asked | {"expected": 7}).status_code == 409
    done = physicist.post(url, json=asked | {"expected": 1}).json()
    assert (done["matching"], done["decided"]) == (1, 1)
    assert physicist.get("/api/v1/findings").json()["items"] == []
    lines = physicist.get("/api/v1/findings.csv", params={"state": "dismissed"}).text.splitlines()
    assert len(lines) == 2 and lines[0].startswith("id,state,severity") and '"dismissed"' in lines[1]


def test_a_destination_is_tried_and_its_dead_letters_go_back(
    web_node: WebNode, program: Program, tmp_path: Path
) -> None:
    operator = program(Role.OPERATOR)
    assert "mount its disk" in operator.post("/api/v1/destinations/people/echo").json()["text"]
    (tmp_path / "out").mkdir()
    assert operator.post("/api/v1/destinations/people/echo").json()["answered"] is True
    assert operator.post("/api/v1/destinations/nobody/echo").status_code == 404
    assert operator.post("/api/v1/series/1/reroute", json={"destinations": ["people"]}).status_code == 200
    with web_node.database.transaction() as session:
        session.execute(update(JobRow).values(state=JobState.DEAD, due_at=None))
        numbers = [one.id for one in jobs.list_jobs(session)]
    (told,) = operator.get("/api/v1/destinations").json()
    assert (told["name"], told["kind"], told["sends"], told["health"]) == ("people", "folder", "original", None)
    assert operator.post("/api/v1/destinations/people/requeue").json() == {"requeued": 1}
    assert operator.post("/api/v1/destinations/people/try-now").json() == {"due": 1}
    first = operator.get("/api/v1/jobs", params={"limit": 1, "state": ["dead", "ready"]}).json()
    second = operator.get("/api/v1/jobs", params={"cursor": first["next"], "state": ["dead", "ready"]}).json()
    assert [one["id"] for one in (*first["items"], *second["items"])] == numbers
    assert ("requeue jobs", "dead letters of people") in trail(web_node)


def test_a_series_is_held_with_a_reason_and_released(web_node: WebNode, program: Program) -> None:
    operator = program(Role.OPERATOR)
    assert operator.post("/api/v1/series/1/hold", json={}).status_code == 422
    assert operator.post("/api/v1/series/1/hold", json={"reason": "of a phantom"}).json() == {"under_way": 0}
    assert operator.get("/api/v1/held").json()["all"] == 1
    assert operator.post("/api/v1/series/1/release", json={"reason": "looked at"}).status_code == 200
    assert operator.get("/api/v1/held").json()["all"] == 0
    assert len(operator.get("/api/v1/series", params={"since": "2020-01-01T00:00:00"}).json()["items"]) == 3


def test_people_and_tokens_are_an_admins_and_secrets_are_told_once(web_node: WebNode, program: Program) -> None:
    admin = program(Role.ADMIN)
    made = admin.post("/api/v1/accounts", json={"name": "Ada", "role": "viewer"}).json()
    assert admin.post("/api/v1/accounts", json={"name": "Ada", "role": "viewer"}).status_code == 409
    assert len(made["secret"]) >= 12 and made["secret"] not in admin.get("/api/v1/accounts").text
    assert admin.put(f"/api/v1/accounts/{made['id']}/role", json={"role": "operator"}).status_code == 200
    assert admin.post(f"/api/v1/accounts/{made['id']}/password").json()["secret"] not in ("", made["secret"])
    assert admin.post(f"/api/v1/accounts/{made['id']}/disable").json()["secret"] == ""
    (ada,) = [one for one in admin.get("/api/v1/accounts").json()["items"] if one["name"] == "Ada"]
    assert (ada["role"], ada["must_change_password"]) == ("operator", True) and ada["disabled_at"] is not None
    refused = admin.post("/api/v1/tokens", json={"name": "a name that is no AE title", "scope": "store"})
    assert refused.status_code == 409 and "AE title" in refused.json()["detail"]
    token = admin.post("/api/v1/tokens", json={"name": "PACS", "scope": "store", "days": 1}).json()
    with web_node.database.reading() as session:
        assert accounts.storing_token(session, hash_token(token["secret"]), datetime.now(UTC)) == "PACS"
    assert admin.post(f"/api/v1/tokens/{token['id']}/revoke").json() == {"revoked": True}
    assert admin.post(f"/api/v1/tokens/{token['id']}/revoke").json() == {"revoked": False}
    page = admin.get("/api/v1/audit-trail", params={"limit": 2}).json()
    assert [one["action"] for one in page["items"]] == ["revoke token", "make token"]
    older = admin.get("/api/v1/audit-trail", params={"limit": 2, "cursor": page["next"]}).json()["items"]
    assert [one["action"] for one in older] == ["disable of account", "password of account"]
    assert admin.get("/api/v1/configuration").json()["destinations"]["people"]["kind"] == "folder"
    operator = program(Role.OPERATOR)
    for path in ("accounts", "tokens", "audit-trail", "configuration"):
        assert operator.get(f"/api/v1/{path}").status_code == 403


def test_slices_are_pictures(web_node: WebNode, program: Program) -> None:
    with closing(Intake(web_node.spool, web_node.database, b"k" * 32)) as intake:
        ds = make_instance()
        uids = (str(ds.SOPClassUID), str(ds.SOPInstanceUID), str(ds.file_meta.TransferSyntaxUID))
        intake.file(encode(ds), Request(*uids, "SENDER", "127.0.0.1"))
    viewer = program(Role.VIEWER)
    number = viewer.get("/api/v1/series").json()["items"][0]["id"]
    assert viewer.get(f"/api/v1/series/{number}/slices").json() == {"slices": 1, "problems": []}
    answer = viewer.get(f"/api/v1/series/{number}/slices/0.png", params={"centre": 8, "width": 4})
    assert (answer.status_code, answer.content[1:4], answer.headers["x-window-width"]) == (200, b"PNG", "4")
    assert viewer.get(f"/api/v1/series/{number}/slices/1.png").status_code == 404


def test_figures_and_reports_are_those_of_the_pages(web_node: WebNode, program: Program) -> None:
    viewer = program(Role.VIEWER)
    assert viewer.get("/api/v1/coverage").json()["n_series"] == 3
    assert viewer.get("/api/v1/held").json() == {"items": [], "all": 0}
    assert sum(cell["n_series"] for cell in viewer.get("/api/v1/scanners").json()["cells"]) == 1
    assert {one["n_judged"] for one in viewer.get("/api/v1/alarm-rates", params={"days": 1}).json()["items"]} == {3}
    overview = viewer.get("/api/v1/overview").json()
    assert len(overview["arrivals"]) == 24 and overview["room"]["free_bytes"] > 0
    month = datetime.now(UTC).strftime("%Y-%m")
    for path in ("series/1/report", "series/1/study-report", "scanners/report", f"months/{month}/report"):
        told = {form: viewer.get(f"/api/v1/{path}", params={"form": form}) for form in ("html", "csv", "json")}
        assert {form: (one.status_code, one.headers["content-type"].split(";")[0]) for form, one in told.items()} == {
            "html": (200, "text/html"), "csv": (200, "text/csv"), "json": (200, "application/json"),
        }  # fmt: skip
        assert "sha256-" in told["html"].headers["content-security-policy"]
    assert viewer.get("/api/v1/months/0000-01/report").status_code == 404


class TestFiles:
    """With an intake, as `iap-node web` hands one over."""

    @pytest.fixture
    def web_node(self, web_node: WebNode) -> WebNode:
        def ingest(paths: list[Path]) -> Iterable[ImportedFile]:
            with closing(Intake(Spool(web_node.config.spool_dir), web_node.database, b"k" * 32)) as intake:
                yield from import_files(paths, intake)

        return replace(web_node, ingest=ingest)

    def test_files_are_filed_and_those_that_are_none_are_named(self, program: Program) -> None:
        files = [("files", ("a.dcm", part10(make_instance()))), ("files", ("notes.txt", b"not dicom at all"))]
        answer = program(Role.OPERATOR).post("/api/v1/files", files=files)
        assert answer.json()["counts"] == {"stored": 1, "not_dicom": 1}
        assert [one["name"] for one in answer.json()["refused"]] == ["notes.txt"]
        large = [("files", ("large.dcm", bytes(3 * 1024**2)))]  # more than forms and JSON may have
        assert program(Role.OPERATOR).post("/api/v1/files", files=large).json()["counts"] == {"not_dicom": 1}
        assert program(Role.VIEWER).post("/api/v1/files", files=files).status_code == 403
