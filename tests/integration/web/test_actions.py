"""What people do in the console: judge again, reroute, release, correct, dismiss by rules and as a whole; reports."""

from __future__ import annotations

import base64
import hashlib
import re
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path

import pytest
from sqlalchemy import update
from starlette.testclient import TestClient

from iap_node.config import JobsConfig, parse_config
from iap_node.database import accounts, archive, findings, jobs, results
from iap_node.database.archive import NotJudgedAgain, judge_again
from iap_node.database.destination_health import note_failed
from iap_node.database.engine import Database
from iap_node.database.finding_lists import FindingFilter, count_findings, list_findings
from iap_node.database.series import series_by_id
from iap_node.database.tables import BytesState, InstanceRow
from iap_node.database.timeline import timeline
from iap_node.errors import LeaseLost
from iap_node.listener.intake import Intake
from iap_node.listener.reception import Request
from iap_node.records import (
    ConditionTrace,
    DomainTrace,
    Finding,
    FindingState,
    HeaderFit,
    Job,
    JobKind,
    JobState,
    Role,
    RouteDecision,
    RouteKind,
    RouteOutcome,
    RouteTrace,
    SeriesHeader,
    SeriesPrediction,
    SeriesState,
    StatedFit,
    Truth,
)
from iap_node.spool import Spool
from iap_node.web.headers import POLICY
from iap_node.web.node import WebNode
from tests.integration.audit.hostile import HOSTILE
from tests.integration.audit.simulated_archive import SCANNERS, Series, file, finding
from tests.integration.web.conftest import Browser
from tests.unit.correction.conftest import Original, write  # noqa: F401  (a fixture)

People = Callable[..., Browser]
NOW = datetime.now(UTC)
PEER = {"ae_title": "PEER", "host": "127.0.0.1", "port": 104}
ON_SQLITE = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


@pytest.fixture
def web_node(database: Database, tmp_path: Path) -> WebNode:
    """With a destination that takes originals, and one that takes corrected copies."""
    config = parse_config(
        {
            "data_dir": "data",
            "spool": {"disk_reserve_mb": 0},
            "destinations": {"clinic": PEER, "research": PEER | {"send": "corrected"}},
        },
        tmp_path,
    )
    config.spool_dir.mkdir(parents=True)
    return WebNode(config, None, database, Spool(config.spool_dir))


def filed(node: WebNode, *some: Series) -> list[int]:
    with node.database.transaction() as session:
        return [file(session, one) for one in some]


def claimed(node: WebNode, kind: JobKind = JobKind.INFER) -> Job:
    with node.database.transaction() as session:
        job = jobs.claim(session, kind, "test", 60.0, datetime.now(UTC) + timedelta(seconds=1))
    assert job is not None
    return job


def judged(
    node: WebNode, job: Job, decision: RouteDecision, found: tuple[Finding, ...] = (), fit: HeaderFit | None = None
) -> None:
    prediction = SeriesPrediction("simulated-2", "none: simulated", False, 1.0, 4.5, 8, (), fit)
    with node.database.transaction() as session:
        results.save_judgement(
            session, job, header=SeriesHeader(()), prediction=prediction, comparisons=(), decision=decision,
            problems=(), not_analysed_reason=None, now=datetime.now(UTC), findings=found,
        )  # fmt: skip


def trail(node: WebNode) -> list[tuple[str, str, str]]:
    with node.database.reading() as session:
        return [(line.who, line.action, line.subject) for line in accounts.trail(session)]


def n_findings(node: WebNode, *states: FindingState) -> int:
    with node.database.reading() as session:
        return sum(count_findings(session, FindingFilter(states=states)).values())


# ---------------------------------------------------------------- judged again


def test_a_series_is_judged_again_as_its_next_revision_and_keeps_what_was_decided(
    signed_in: People, web_node: WebNode
) -> None:
    """By a worker as ever; what a person decided about a finding stands, what a destination has is not sent again."""
    (number,) = filed(web_node, Series(1, NOW, findings=(finding(),)))
    operator = signed_in(Role.OPERATOR, name="Otto")
    operator.post(f"/series/{number}/reroute", {"destination": ["clinic"], "reason": "asked for"})
    sending = claimed(web_node, JobKind.DELIVER)
    with web_node.database.transaction() as session:
        (instance,) = archive.current_instances(session, number)
        results.save_delivery(
            session, sending, [results.InstanceDelivery(instance.id, True, 0)], web_node.config.jobs, NOW
        )
        (one,) = list_findings(session, FindingFilter(series_id=number))
        findings.decide(session, one.id, FindingState.ACCEPTED, "Ada", now=NOW)
    page = operator.post(f"/series/{number}/rejudge", {"reason": "a new model"})
    assert page.status_code == 200 and "judged again as revision 2" in page.text
    assert operator.post(f"/series/{number}/rejudge").status_code == 422  # it waits already
    job = claimed(web_node)
    assert (job.series_id, job.revision) == (number, 2)
    judged(web_node, job, RouteDecision(None, (), ("clinic",), "by default", (), "rules-2"), (finding(),))
    with web_node.database.reading() as session:
        series = series_by_id(session, number)
        assert (series.state, series.judged_revision, series.model_id) == (SeriesState.JUDGED, 2, "simulated-2")
        before = results.judgement(session, number, revision=1)
        assert before is not None and before.decision.rules_version == "rules-1"
        (one,) = list_findings(session, FindingFilter(states=(), series_id=number))
        assert (one.state, one.last_revision) == (FindingState.ACCEPTED, 2)
        told = [(event.kind.value, event.who) for event in timeline(session, number)]
    assert ("queued", "Otto") in told and ("route", "Otto") in told and ("finding", "Ada") in told
    again = claimed(web_node, JobKind.DELIVER)
    with web_node.database.reading() as session:
        assert again.revision == 2 and results.outstanding_instances(session, again) == []
    assert ("Otto", "judge series again", str(number)) in trail(web_node)
    text = operator.get(f"/series/{number}").text
    assert "a new model" in text and "asked for" in text and "accepted 1 of 1 instances" in text


def test_a_failed_series_is_judged_again_and_its_dead_letter_never_comes_back(
    database: Database, web_node: WebNode
) -> None:
    (number,) = filed(web_node, Series(1, NOW))
    with database.transaction() as session:
        judge_again(session, number, NOW)
    old = claimed(web_node)
    with database.transaction() as session:
        jobs.fail(session, old, "a damaged pixel", True, web_node.config.jobs, NOW)
        assert judge_again(session, number, NOW) == 3
    with database.transaction() as session:
        assert jobs.retry(session, None, NOW) == 0
        assert [(job.revision, job.state) for job in jobs.list_jobs(session)] == [
            (3, JobState.READY), (2, JobState.SUPERSEDED), (1, JobState.DONE),
        ]  # fmt: skip
    with pytest.raises(LeaseLost):  # the fence
        judged(web_node, old, RouteDecision(None, (), (), "too late", (), "rules-1"))
    assert claimed(web_node).revision == 3


def test_a_series_whose_bytes_are_gone_keeps_the_judgement_that_stands(database: Database, web_node: WebNode) -> None:
    (number,) = filed(web_node, Series(1, NOW))
    with database.transaction() as session:
        session.execute(update(InstanceRow).values(bytes_state=BytesState.DELETED))
    with pytest.raises(NotJudgedAgain, match="1 instances"), database.transaction() as session:
        judge_again(session, number, NOW)
    with database.reading() as session:
        assert series_by_id(session, number).state is SeriesState.JUDGED


# ---------------------------------------------------------------- the page of a series


HELD = RouteDecision(
    "odd ones", ("lesions",), ("clinic",), "it is odd", (
        DomainTrace("odd ones", Truth.TRUE, 0.91, 0.9, (ConditionTrace("Manufacturer = ODD", Truth.TRUE, 0.91, "p"),)),
    ), "rules-3",
    routes=(
        RouteTrace("look", RouteKind.RULE, 10, Truth.UNKNOWN, RouteOutcome.UNKNOWN, None, 0.9,
                   ConditionTrace(HOSTILE["markup"], Truth.UNKNOWN, None, HOSTILE["template"]), ("clinic",),
                   consequence="holds it"),
    ),
    held="a person must look",
)  # fmt: skip


@ON_SQLITE
def test_a_held_series_tells_why_and_is_released_by_an_operator_only(signed_in: People, web_node: WebNode) -> None:
    (number,) = filed(web_node, Series(1, NOW))
    with web_node.database.transaction() as session:
        judge_again(session, number, NOW)
    fit = HeaderFit(0.0123, (StatedFit("EchoTime", 0.002), StatedFit("FlipAngle", 0.4)), (0.2, 0.5))
    judged(web_node, claimed(web_node), HELD, fit=fit)
    viewer = signed_in(Role.VIEWER)
    text = viewer.get(f"/series/{number}").text
    for told in ("a person must look", "p = 0.910 of 0.9", "nobody knows", "holds it", "1.2 %", "Echo Time", "0.2 %"):
        assert told in text, told
    assert "<script>alert" not in text and "&lt;script&gt;" in text and "Reroute" not in text
    for deed in ("release", "reroute", "rejudge"):
        assert viewer.post(f"/series/{number}/{deed}").status_code == 403
    operator = signed_in(Role.OPERATOR, name="Otto")
    assert "Release" in operator.get(f"/series/{number}").text
    assert "released to clinic" in operator.post(f"/series/{number}/release", {"reason": "seen"}).text
    assert operator.post(f"/series/{number}/release").status_code == 422
    assert operator.post(f"/series/{number}/reroute", {"destination": ["nowhere"]}).status_code == 422
    assert operator.post(f"/series/{number}/reroute").status_code == 422
    assert ("Otto", "release series", str(number)) in trail(web_node)
    assert {viewer.get(f"/series/{10**30}{part}").status_code for part in ("", "/slices", "/slices/0.png")} == {422}
    assert viewer.get("/series/999").status_code == 404


@ON_SQLITE
def test_a_series_is_held_with_a_reason_by_an_operator_and_released(signed_in: People, web_node: WebNode) -> None:
    (number,) = filed(web_node, Series(1, NOW))
    with web_node.database.transaction() as session:
        judge_again(session, number, NOW)
    judged(web_node, claimed(web_node), RouteDecision("d", ("m",), ("clinic",), "why", (), "rules-1"))
    otto, viewer = signed_in(Role.OPERATOR, name="Otto"), signed_in(Role.VIEWER)
    assert viewer.post(f"/series/{number}/hold", {"reason": "no"}).status_code == 403
    assert otto.post(f"/series/{number}/hold").status_code == 422
    shown = otto.post(f"/series/{number}/hold", {"reason": HOSTILE["markup"]}).text
    assert "nothing more of it is sent" in shown and "held by Otto" in shown and "<script>alert" not in shown
    assert f'href="/api/v1/series/{number}/result"' in shown
    with web_node.database.transaction() as session:
        assert jobs.claim(session, JobKind.DELIVER, "test", 60.0, datetime.now(UTC)) is None
    assert "when the series is released" in viewer.get("/queue").text
    assert '<span class="tag warning">held</span>' in viewer.get("/series").text
    assert otto.post(f"/series/{number}/hold", {"reason": "again"}).status_code == 422
    assert "released to clinic" in otto.post(f"/series/{number}/release").text
    assert claimed(web_node, JobKind.DELIVER).destination == "clinic"
    assert {("Otto", "hold series", str(number)), ("Otto", "release series", str(number))} <= set(trail(web_node))


@ON_SQLITE
def test_a_destination_that_is_left_alone_says_until_when_and_is_tried_now(
    signed_in: People, web_node: WebNode
) -> None:
    (number,) = filed(web_node, Series(1, NOW))
    with web_node.database.transaction() as session:
        judge_again(session, number, NOW)
    judged(web_node, claimed(web_node), RouteDecision("d", ("m",), ("clinic",), "why", (), "rules-1"))
    job = claimed(web_node, JobKind.DELIVER)
    with web_node.database.transaction() as session:
        config = JobsConfig(breaker_failures=1, max_attempts=2, backoff_s=3000.0)
        note_failed(session, "clinic", "<b>refused", config, datetime.now(UTC))
        jobs.fail(session, job, "<b>refused", False, config, datetime.now(UTC))
    otto, viewer = signed_in(Role.OPERATOR, name="Otto"), signed_in(Role.VIEWER)
    text = viewer.get("/destinations").text
    for told in ("left alone", "the next try is at", "&lt;b&gt;refused"):
        assert told in text, told
    assert "Try now" not in text
    assert "the destination is left alone" in viewer.get("/queue").text
    assert viewer.post("/destinations/clinic/try-now").status_code == 403
    assert "1 deliveries are due" in otto.post("/destinations/clinic/try-now").text
    with web_node.database.transaction() as session:
        again = jobs.claim(session, JobKind.DELIVER, "test", 60.0, datetime.now(UTC) + timedelta(seconds=1))
        assert again is not None
        jobs.fail(session, again, "gone", True, JobsConfig(), datetime.now(UTC))
    assert "1 dead letter</a>" in viewer.get("/destinations").text
    assert "gone" in viewer.get("/queue?state=dead&destination=clinic").text
    assert "gone" not in viewer.get("/queue?state=dead&destination=research").text
    assert "1 dead letters for clinic are back" in otto.post("/destinations/clinic/requeue").text
    assert ("Otto", "try destination now", "clinic") in trail(web_node)


# ---------------------------------------------------------------- corrections


@ON_SQLITE
def test_accepted_values_are_seen_then_written_and_sent(
    signed_in: People,
    program: Callable[[Role], TestClient],
    web_node: WebNode,
    write: Callable[..., Original],  # noqa: F811
) -> None:
    """Nothing before it was shown; not what the person did not see; and it is told who did it."""
    intake = Intake(web_node.spool, web_node.database, b"k" * 32)
    for place in (1, 2):
        original = write(place, SeriesDescription="<script>alert(1)</script>")
        data = original.file.read_bytes()
        uids = (original.sop_class_uid, original.sop_instance_uid, original.transfer_syntax_uid)
        intake.file(data[144 + int.from_bytes(data[140:144], "little") :], Request(*uids, "SCANNER", "127.0.0.1"))
    intake.close()
    later = datetime.now(UTC) + timedelta(hours=1)
    with web_node.database.transaction() as session:
        archive.complete_quiet_series(session, later, 1.0)
    with web_node.database.transaction() as session:
        job = jobs.claim(session, JobKind.INFER, "test", 60.0, later)
    assert job is not None
    number = job.series_id
    wrong = finding("a-check", "RepetitionTime", raw="2.5", suggested="2500")
    judged(web_node, job, RouteDecision(None, (), (), "nowhere", (), "rules-1"), (wrong,))
    ada = signed_in(Role.PHYSICIST, name="Ada")
    path = f"/series/{number}/correction"
    assert signed_in(Role.VIEWER).get(path).status_code == 403
    assert "No value is accepted" in ada.get(path).text
    with web_node.database.reading() as session:
        (one,) = list_findings(session, FindingFilter(series_id=number))
    ada.post("/findings/decide", {"state": "accepted", "finding": [one.id], "value": "2500", "single": "true"})
    text = ada.get(path).text
    assert "(0018,0080)" in text and "<strong>2500</strong>" in text and f"finding {one.id} (a-check)" in text
    assert "<script>alert" not in text and "&lt;script&gt;" in text
    assert ">Ada</td>" in text and "Send to research" in text and "Send to clinic" not in text
    (seen,) = set(re.findall(r'name="seen" value="([0-9a-f]+)"', text))
    assert ada.post(f"{path}/write", {"seen": "0" * 32}).status_code == 422
    assert not (web_node.config.data_dir / "corrected").exists()
    api = program(Role.PHYSICIST)
    dry = api.post(f"/api/v1/series/{number}/correct", json={}).json()
    assert [group["elements"][0]["new"] for group in dry["groups"]] == ["2500"] and dry["dry_run"]
    assert "2 copies in" in ada.post(f"{path}/write", {"seen": seen}).text
    folder = web_node.config.data_dir / "corrected" / dry["copy_series_instance_uid"]
    assert len(list(folder.glob("*.dcm"))) == 2
    assert f'href="{path}/1.zip"' in ada.get(path).text
    taken = ada.get(f"{path}/1.zip")
    with zipfile.ZipFile(BytesIO(taken.content)) as packed:
        assert sorted(packed.namelist()) == sorted(file.name for file in folder.glob("*.dcm"))
        assert packed.testzip() is None
    assert ada.get(f"{path}/2.zip").status_code == 422
    assert signed_in(Role.VIEWER).get(f"{path}/1.zip").status_code == 403
    assert ("Ada", "take corrected copy", str(number)) in trail(web_node)
    assert n_findings(web_node, FindingState.CORRECTED) == 1
    assert ada.post(f"{path}/send", {"seen": seen, "destination": "clinic"}).status_code == 422
    assert "in the queue for research" in ada.post(f"{path}/send", {"seen": seen, "destination": "research"}).text
    assert claimed(web_node, JobKind.DELIVER).destination == "research"
    done = api.post(f"/api/v1/series/{number}/correct", json={"dry_run": False}).json()
    assert (done["copies"], done["were_there"]) == (2, 2)
    (copy,) = api.get(f"/api/v1/series/{number}/corrections").json()["items"]
    assert copy["elements"] == {"RepetitionTime": "2500"} and copy["made_by"] == "Ada"
    assert {("Ada", "correct series", str(number)), ("Ada", "send corrected series", str(number))} <= set(
        trail(web_node)
    )


# ---------------------------------------------------------------- findings by the many


@ON_SQLITE
def test_all_that_a_filter_shows_is_decided_after_the_number_was_confirmed(
    signed_in: People, web_node: WebNode
) -> None:
    """Of the filter alone, in its number alone, and what others decided is left alone."""
    other = finding("another-check", "EchoTime")
    filed(web_node, *(Series(n, NOW, study=n, findings=(finding(), other)) for n in (1, 2, 3)))
    ada = signed_in(Role.PHYSICIST, name="Ada")
    form = {"of_state": "open", "of_check": "field-strength-unit", "state": "dismissed", "reason": "a phantom"}
    asked = ada.post("/findings/decide-all", form).text
    assert "Dismiss 3 findings?" in asked and n_findings(web_node, FindingState.DISMISSED) == 0
    assert ada.post("/findings/decide-all", form | {"reason": ""}).status_code == 422
    assert "there were 2, now there are 3" in ada.post("/findings/decide-all", form | {"expected": "2"}).text
    assert n_findings(web_node, FindingState.DISMISSED) == 0
    assert "3 dismissed" in ada.post("/findings/decide-all", form | {"expected": "3"}).text
    assert (n_findings(web_node, FindingState.DISMISSED), n_findings(web_node, FindingState.OPEN)) == (3, 3)
    assert ("Ada", "findings dismissed", "all findings of state open, check field-strength-unit") in trail(web_node)
    again = {"of_state": "", "state": "open", "expected": "3"}
    assert "3 open" in ada.post("/findings/decide-all", again).text
    assert n_findings(web_node, FindingState.OPEN) == 6
    never_shown = {"of_state": "accepted", "state": "accepted", "expected": "6"}
    assert ada.post("/findings/decide-all", never_shown).status_code == 422
    assert n_findings(web_node, FindingState.OPEN) == 6
    viewer = signed_in(Role.VIEWER)
    assert viewer.post("/findings/decide-all", form | {"expected": "3"}).status_code == 403


@ON_SQLITE
def test_a_decision_on_some_leaves_the_filter_as_it_is(signed_in: People, web_node: WebNode) -> None:
    filed(web_node, Series(1, NOW, findings=(finding(), finding("another-check", "EchoTime"))))
    with web_node.database.reading() as session:
        (one,) = list_findings(session, FindingFilter(checks=("another-check",)))
    form = {"of_check": "another-check", "state": "dismissed", "reason": "no", "finding": [one.id]}
    text = signed_in(Role.PHYSICIST).post("/findings/decide", form).text
    assert "1 dismissed" in text and "MagneticFieldStrength" not in text
    assert 'name="of_check" value="another-check"' in text


@ON_SQLITE
def test_a_rule_dismisses_what_is_and_what_comes_on_one_scanner_until_it_is_withdrawn(
    signed_in: People, program: Callable[[Role], TestClient], web_node: WebNode
) -> None:
    filed(
        web_node,
        Series(1, NOW, findings=(finding(),)),
        Series(2, NOW, scanner=SCANNERS[1], study=2, findings=(finding(),)),
    )
    with web_node.database.reading() as session:
        one = next(found for found in list_findings(session) if found.device_serial_number == "S-1")
    ada = signed_in(Role.PHYSICIST, name="Ada")
    form = {"scope": "scanner", "only_element": "true", "reason": HOSTILE["markup"]}
    asked = ada.post(f"/findings/{one.id}/rule", form).text
    assert "dismisses 1 open finding at once" in asked and "S-1" in asked and "<script>alert" not in asked
    assert n_findings(web_node, FindingState.DISMISSED) == 0
    assert "rule 1 dismissed 1" in ada.post(f"/findings/{one.id}/rule", form | {"expected": "1"}).text
    filed(
        web_node,
        Series(3, NOW, study=3, findings=(finding(),)),
        Series(4, NOW, scanner=SCANNERS[1], study=4, findings=(finding(),)),
    )
    assert (n_findings(web_node, FindingState.DISMISSED), n_findings(web_node, FindingState.OPEN)) == (2, 2)
    viewer = signed_in(Role.VIEWER)
    page = viewer.get("/findings/rules").text
    assert "field-strength-unit" in page and "<script>alert" not in page and "Withdraw" not in page
    api = program(Role.PHYSICIST)
    (rule,) = api.get("/api/v1/findings/rules").json()["items"]
    assert rule["scanner"]["device_serial_number"] == "S-1" and rule["n_dismissed"] == 2
    assert viewer.post("/findings/rules/1/withdraw").status_code == 403
    assert "2 findings are open again" in ada.post("/findings/rules/1/withdraw", {"reason": "it was one"}).text
    assert ada.post("/findings/rules/1/withdraw").status_code == 404
    made = api.post("/api/v1/findings/rules", json={"check": "field-strength-unit", "reason": "no fault"}).json()
    assert made["dismissed"] == 4
    assert api.post("/api/v1/findings/rules", json={"check": "misspelt", "reason": "no"}).status_code == 422
    assert api.post("/api/v1/findings/rules/2/withdraw", json={}).json() == {"reopened": 4}
    done = {action for who, action, _ in trail(web_node) if who == "Ada"}
    assert {"make dismissal rule", "withdraw dismissal rule"} <= done


# ---------------------------------------------------------------- reports


@ON_SQLITE
def test_reports_are_taken_away_with_a_policy_that_allows_their_own_style_alone(
    signed_in: People, web_node: WebNode
) -> None:
    hostile = finding(raw=HOSTILE["markup"])
    (number,) = filed(web_node, Series(1, NOW, description="</style><style>*{}", findings=(hostile,)))
    viewer = signed_in(Role.VIEWER)
    month = f"{NOW:%Y-%m}"
    for path in (f"/series/{number}/report", f"/series/{number}/study", "/scanners/report", f"/months/{month}/report"):
        for form in ("html", "csv", "json"):
            answer = viewer.get(f"{path}.{form}")
            assert answer.status_code == 200, path
            disposition = answer.headers["content-disposition"]
            assert re.fullmatch(rf'attachment; filename="[A-Za-z0-9._-]+\.{form}"', disposition)
            policy = answer.headers["content-security-policy"]
            if form != "html":
                assert policy == POLICY
                continue
            (style,) = re.findall(r"<style>(.*?)</style>", answer.text, re.DOTALL)
            expected = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
            assert f"style-src 'sha256-{expected}';" in policy and policy.startswith("default-src 'none';")
            assert "style=" not in answer.text and "<script" not in answer.text
    assert viewer.get("/scanners/report.json?serial=S-1&days=7").json()["scope"]["serial_number"] == "S-1"
    assert viewer.get("/months/0001-01/report.html").status_code == 404
    assert viewer.get(f"/series/{number}/report.exe").status_code == 422
    assert viewer.get("/series/999/report.html").status_code == 404
    links = re.findall(r'href="([^"]+)" (?:title="[^"]*" )?download', viewer.get("/scanners").text)
    assert links and all(viewer.get(link.replace("&amp;", "&")).status_code == 200 for link in links)
