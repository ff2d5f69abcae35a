"""Every page answers, its live part too; what people decide there is done; hostile headers are text."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from starlette.testclient import TestClient

from iap_node.database import accounts
from iap_node.database.alarms import AlarmRate
from iap_node.database.finding_lists import FindingFilter, list_findings
from iap_node.database.report_figures import Scanner
from iap_node.records import FindingState, Role
from iap_node.web.node import WebNode
from iap_node.web.pages import overview
from iap_node.web.rendering import NAVIGATION
from tests.integration.audit.hostile import HOSTILE
from tests.integration.audit.simulated_archive import NOVEL, SCANNERS, UNSEEN, Series, file, finding
from tests.integration.web.conftest import Browser

People = Callable[..., Browser]
LIVE = {"HX-Request": "true"}


@pytest.fixture
def archive(web_node: WebNode) -> list[int]:
    """Five series: judged with findings, quiet, novel, without pixels, and one with a hostile header."""
    now = datetime.now(UTC)
    with web_node.database.transaction() as session:
        return [
            file(session, Series(1, now, findings=(finding(),))),
            file(session, Series(2, now, scanner=SCANNERS[1])),
            file(session, Series(3, now, scanner=SCANNERS[2], pixels=NOVEL)),
            file(session, Series(4, now, pixels=UNSEEN)),
            file(
                session,
                Series(
                    5, now, description=HOSTILE["markup"], protocol=HOSTILE["template"],
                    findings=(finding(raw=HOSTILE["markup"], suggested=HOSTILE["formula"]),),
                ),
            ),
        ]  # fmt: skip


def findings_of(node: WebNode, *states: FindingState) -> list[int]:
    with node.database.reading() as session:
        return [one.id for one in list_findings(session, FindingFilter(states=states))]


def test_every_page_answers_whole_and_in_part(signed_in: People, archive: list[int], web_node: WebNode) -> None:
    browser = signed_in(Role.ADMIN)
    paths = [path for _, path in NAVIGATION] + [f"/series/{number}" for number in archive]
    paths += [f"/findings/{number}" for number in findings_of(web_node)]
    for path in paths:
        whole = browser.get(path)
        assert whole.status_code == 200, path
        assert whole.text.startswith("<!doctype html>") and "</html>" in whole.text
        assert browser.get(path, headers=LIVE).status_code == 200


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_drift_names_the_scanner_whose_alarms_are_above_what_was_promised(
    signed_in: People, web_node: WebNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    viewer = signed_in()
    assert "nothing was judged against a header" in viewer.get("/overview/drift", headers=LIVE).text
    above = AlarmRate(Scanner("<b>MAKER", "MODEL", "S1"), "EchoTime", 0.01, 200, 40, 0, 0)
    monkeypatch.setattr(overview, "alarm_rates", lambda *_, **__: [above])
    shown = viewer.get("/overview/drift", headers=LIVE).text
    assert "EchoTime on &lt;b&gt;MAKER MODEL S1: 20.0 % of 200, promised 1.0 %" in shown


def test_nothing_on_a_page_comes_from_elsewhere(signed_in: People, archive: list[int]) -> None:
    browser = signed_in(Role.ADMIN)
    for _, path in NAVIGATION:
        text = browser.get(path).text
        links = re.findall(r'(?:src|href|action|hx-get|hx-post|sse-connect)="([^"]*)"', text)
        assert links and all(link.startswith(("/", "#")) and not link.startswith("//") for link in links)
        assert "style=" not in text and "onclick" not in text and "<script>" not in text


def test_hostile_headers_are_text(signed_in: People, archive: list[int], web_node: WebNode) -> None:
    browser = signed_in(Role.PHYSICIST)
    paths = ["/series", f"/series/{archive[4]}", "/findings", "/scanners"]
    paths += [f"/findings/{number}" for number in findings_of(web_node)]
    for path in paths:
        text = browser.get(path).text
        assert "<script>alert" not in text and "<img src=x" not in text, path
        assert "49" not in text.partition("{{ 7*7 }}")[0][-4:]
    assert "&lt;script&gt;" in browser.get("/series").text
    cells = browser.get("/findings.csv").text
    assert "\"'=cmd|" in cells and '"=cmd|' not in cells


@pytest.mark.parametrize(
    ("query", "numbers"),
    [
        ("", [5, 4, 3, 2, 1]),
        ("?scanner=signa", [3, 2]),
        ("?scanner=g-1", [2]),
        ("?text=breast", [4, 3, 2, 1]),
        ("?text=1.2.826.8.3", [3]),
        ("?text=%25", [5]),
        ("?findings=true", [5, 1]),
        ("?state=not+analysed", [4]),
        ("?modality=CT", []),
    ],
)
def test_the_list_is_filtered(signed_in: People, archive: list[int], query: str, numbers: list[int]) -> None:
    rows = signed_in().get(f"/series{query}", headers=LIVE).text
    found = [int(part.split('"')[0]) for part in rows.split('href="/series/')[1:]]
    assert found == [archive[number - 1] for number in numbers]


def test_findings_are_accepted_dismissed_and_reopened(
    signed_in: People, archive: list[int], web_node: WebNode
) -> None:
    physicist = signed_in(Role.PHYSICIST, name="Ada")
    first, second = sorted(findings_of(web_node))
    assert physicist.post("/findings/decide", {"state": "accepted", "finding": [first]}).status_code == 200
    assert findings_of(web_node, FindingState.ACCEPTED) == [first]
    without_reason = physicist.post("/findings/decide", {"state": "dismissed", "finding": [second]})
    assert without_reason.status_code == 422 and "reason" in without_reason.text
    physicist.post("/findings/decide", {"state": "dismissed", "finding": [second], "reason": "phantom"})
    assert findings_of(web_node, FindingState.DISMISSED) == [second]
    page = physicist.post("/findings/decide", {"state": "open", "finding": [first], "single": "true"})
    assert "Ada" in page.text and findings_of(web_node, FindingState.OPEN) == [first]
    with web_node.database.reading() as session:
        actions = [line.action for line in accounts.trail(session) if line.who == "Ada"]
    assert actions[:3] == ["findings open", "findings dismissed", "findings accepted"]


def test_a_viewer_decides_nothing(signed_in: People, archive: list[int], web_node: WebNode) -> None:
    viewer = signed_in(Role.VIEWER)
    (number, *_) = findings_of(web_node)
    assert viewer.post("/findings/decide", {"state": "accepted", "finding": [number]}).status_code == 403
    assert "Decide" not in viewer.get(f"/findings/{number}").text
    assert findings_of(web_node, FindingState.ACCEPTED) == []


def test_the_api_gives_what_the_pages_show_page_by_page(
    program: Callable[[Role], TestClient], archive: list[int], web_node: WebNode
) -> None:
    api = program(Role.PHYSICIST)
    first = api.get("/api/v1/series?limit=3").json()
    second = api.get(f"/api/v1/series?limit=3&cursor={first['next']}").json()
    assert [one["id"] for one in first["items"] + second["items"]] == archive[::-1] and second["next"] is None
    one = api.get(f"/api/v1/series/{archive[0]}").json()
    assert one["judgement"]["prediction"]["training_data"] and one["instances"]
    assert api.get(f"/api/v1/series/{archive[0]}/route").json()["decision"]["reason"]
    found = api.get("/api/v1/findings").json()["items"]
    assert {one["id"] for one in found} == set(findings_of(web_node))
    body = {"findings": [found[0]["id"]], "state": "accepted"}
    assert api.post("/api/v1/findings/decisions", json=body).json()["decided"] == 1
    events = api.get(f"/api/v1/findings/{found[0]['id']}").json()["events"]
    assert events[-1]["state"] == "accepted" and events[-1]["who"].startswith("token test of")


def test_what_is_not_there_is_404_and_who_may_not_gets_403(
    program: Callable[[Role], TestClient], archive: list[int]
) -> None:
    api = program(Role.VIEWER)
    assert api.get("/api/v1/series/999999").status_code == 404
    assert api.get("/api/v1/findings/999999").status_code == 404
    assert api.post(f"/api/v1/series/{archive[0]}/release", json={}).status_code == 403
    assert program(Role.OPERATOR).post(f"/api/v1/series/{archive[0]}/release", json={}).status_code == 422
