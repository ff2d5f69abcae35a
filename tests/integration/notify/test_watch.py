"""Trouble in a real archive, told to a real mail server and a real web server, once."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from iap_node.cli import app
from iap_node.config import NodeConfig, SpoolConfig, parse_config
from iap_node.config.notifications import HAPPENS_ONCE, EmailConfig, TroubleKind, WebhookConfig
from iap_node.database import jobs
from iap_node.database.alarms import AlarmRate
from iap_node.database.notifications import announce
from iap_node.database.report_figures import Scanner
from iap_node.errors import ConfigError, NodeError
from iap_node.notify import conditions
from iap_node.notify.message import Event, Message, NotTold
from iap_node.notify.watch import Watch
from iap_node.records import JobKind, RouteDecision
from iap_node.scheduler import _table
from tests.conftest import REPOSITORY
from tests.integration.database.conftest import judge_unseen
from tests.integration.listener.conftest import Certificates
from tests.integration.notify.servers import MailServer, WebServer, mail_server, web_server
from tests.integration.upkeep.conftest import NOW, Archive, series_uid

HOUR = timedelta(hours=1)
LATER = NOW + HOUR
ON_SQLITE = pytest.mark.parametrize("database", ["sqlite"], indirect=True)  # the others are on PostgreSQL too


@dataclass(frozen=True)
class Room:
    """Of a disk."""

    free_bytes: int = 100
    reserve_bytes: int = 10
    full_in_days: float | None = None


@dataclass
class Kept:
    """A channel that keeps what it is told, or is away."""

    name: str = "kept"
    messages: list[Message] = field(default_factory=list)
    is_away: bool = False

    def send(self, message: Message) -> None:
        if self.is_away:
            raise NotTold("away")
        self.messages.append(message)

    def news(self) -> list[tuple[str, Event]]:
        taken = [(message.kind, message.event) for message in self.messages]
        self.messages.clear()
        return taken


@dataclass
class Outside:
    """Where messages go, and the configuration that says so."""

    mail: MailServer
    web: WebServer
    folder: Path
    content: dict[str, Any]

    def config(self, **changes: Any) -> NodeConfig:
        return parse_config(self.content | {"notifications": self.content["notifications"] | changes}, self.folder)

    def watch(self, archive: Archive) -> Watch:
        return Watch(self.config(), archive.database, lambda _: Room())


@pytest.fixture
def outside(certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Outside]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    for name in ("smtp.password", "webhook.secret"):
        (tmp_path / name).write_text(f"a {name.split('.')[1]}\n")
        (tmp_path / name).chmod(0o600)
    with mail_server(certificates.folder / "node.pem", certificates.folder / "node.key") as mail, web_server() as web:
        email = {
            "host": "localhost",
            "port": mail.port,
            "sender": "node@hospital.example",
            "recipients": ["pacs@hospital.example", "physics@hospital.example"],
            "user": "node",
            "password_file": "smtp.password",
            "ca": certificates.file("ca.pem"),
        }
        webhook = {"url": f"http://127.0.0.1:{web.port}/hook", "secret_file": "webhook.secret"}
        yield Outside(mail, web, tmp_path, {"notifications": {"email": email, "webhook": webhook}})


def test_trouble_is_told_by_both_channels_once_and_its_end_too(
    make_archive: Callable[[], Archive], outside: Outside
) -> None:
    archive = make_archive()
    archive.receive(1, comment="SECRET DESCRIPTION")
    archive.judge(1, "lesions")
    archive.deliver(1, accepted=False)  # a dead letter
    outside.watch(archive).look(LATER)
    subjects = sorted(mail["Subject"].strip() for mail in outside.mail.mails)
    assert subjects == [
        "IAP node IAP_NODE: deliveries do not get through (lesions: 1 failed, 0 late)",
        "IAP node IAP_NODE: jobs that failed for good: 1 deliver",
    ]
    (mail,) = [mail for mail in outside.mail.mails if "jobs" in mail["Subject"]]
    assert mail["To"] == "pacs@hospital.example, physics@hospital.example"
    assert series_uid(1) in mail.get_content() and "iap-node retry" in mail.get_content()
    posts = {json.loads(body)["kind"]: (headers, body) for headers, body in outside.web.posts}
    assert posts.keys() == {"dead_letters", "destination_failing"}
    headers, body = posts["dead_letters"]
    signed = hmac.new(b"a secret", headers["iap-node-timestamp"].encode() + b"." + body, hashlib.sha256).hexdigest()
    assert headers["iap-node-signature"] == f"sha256={signed}"
    assert json.loads(body)["series_instance_uids"] == [series_uid(1)]
    everything = b"".join(body for _, body in outside.web.posts).decode() + "".join(map(str, outside.mail.mails))
    for secret in ("SECRET", "4711", "SIEMENS"):  # of the patient, of the header
        assert secret not in everything

    outside.watch(archive).look(LATER + HOUR)  # the node was started again meanwhile
    assert len(outside.mail.mails) == len(outside.web.posts) == 2
    with archive.database.transaction() as session:
        jobs.retry(session, None, LATER + HOUR)
    outside.watch(archive).look(LATER + HOUR)
    assert [json.loads(body)["event"] for _, body in outside.web.posts[2:]] == ["over", "over"]
    assert len(outside.mail.mails) == 4


def test_each_kind_of_trouble_is_found_in_the_archive(
    make_archive: Callable[[], Archive]
) -> None:
    archive, kept, room = make_archive(), Kept(), [Room(full_in_days=None)]
    watch = Watch(NodeConfig(), archive.database, lambda _: room[0], [kept])
    watch.look(NOW)
    assert kept.news() == []
    archive.refuse()
    archive.receive(1)
    archive.judge(1, "lesions")
    room[0] = Room(full_in_days=1.5)
    watch.look(LATER)
    assert sorted(kept.news()) == [
        ("destination_failing", Event.BEGUN), ("disk_low", Event.BEGUN), ("quarantine_grown", Event.BEGUN),
    ]  # fmt: skip
    room[0] = Room(free_bytes=5)
    watch.look(LATER + HOUR)
    assert kept.news() == [("disk_low", Event.WORSE)]
    watch.look(NOW + timedelta(days=1, minutes=1))
    assert ("quarantine_grown", Event.OVER) in kept.news()


def test_a_series_that_a_rule_holds_is_told_of_when_it_has_waited(make_archive: Callable[[], Archive]) -> None:
    archive, kept = make_archive(), Kept()
    archive.receive(1)
    archive.complete(1)
    with archive.database.transaction() as session:
        job = jobs.claim(session, JobKind.INFER, "test", 60.0, NOW)
        assert job is not None
        judge_unseen(session, job, RouteDecision(None, (), (), "for a test", (), "1", held="why"), NOW)
    watch = Watch(NodeConfig(), archive.database, lambda _: Room(), [kept])
    watch.look(NOW + 0.9 * HOUR)
    assert kept.news() == []
    watch.look(LATER)
    (message,) = kept.messages
    assert (message.kind, message.series_instance_uids) == ("series_held", (series_uid(1),))


@ON_SQLITE
def test_a_channel_that_fails_is_tried_again_and_the_other_one_is_told_once(
    make_archive: Callable[[], Archive],
) -> None:
    archive, there, away = make_archive(), Kept("there"), Kept("away", is_away=True)
    archive.refuse()
    watch = Watch(NodeConfig(), archive.database, lambda _: Room(), [away, there])
    watch.look(LATER)
    away.is_away = False
    watch.look(LATER + timedelta(minutes=1))
    assert there.news() == away.news() == [("quarantine_grown", Event.BEGUN)]


def test_what_another_process_is_telling_is_not_told_twice(make_archive: Callable[[], Archive]) -> None:
    archive, kept = make_archive(), Kept()
    archive.refuse()

    class Nested(Kept):
        def send(self, message: Message) -> None:  # meanwhile, on another machine
            Watch(NodeConfig(), archive.database, lambda _: Room(), [kept]).look(LATER)
            super().send(message)

    told = Nested()
    Watch(NodeConfig(), archive.database, lambda _: Room(), [told]).look(LATER)
    assert told.news() == [("quarantine_grown", Event.BEGUN)] and kept.news() == []


def test_what_happens_once_is_told_once_in_order_and_after_quiet_hours(make_archive: Callable[[], Archive]) -> None:
    """A channel that is away hears of it later, one that is new hears nothing of long ago, and it is never "over"."""
    archive, kept, away = make_archive(), Kept("kept"), Kept("away", is_away=True)
    quiet = NodeConfig.model_validate({"notifications": {"quiet_hours": f"{NOW:%H}:00-{LATER + HOUR:%H}:00"}})
    with archive.database.transaction() as session:
        announce(session, TroubleKind.TRAINING_ENDED, "long ago", "look", NOW - timedelta(days=8))
        announce(session, TroubleKind.TRAINING_ENDED, "no candidate: a gate refused it", "look at the models", NOW)
        announce(session, TroubleKind.TRAINING_ENDED, "candidate m-2", "look at the models", NOW)
    Watch(quiet, archive.database, lambda _: Room(), [kept]).look(LATER)
    assert kept.messages == []
    untold = NodeConfig.model_validate({"notifications": {"kinds": ["disk_low"]}})
    Watch(untold, archive.database, lambda _: Room(), [kept]).look(LATER)
    assert kept.messages == []
    Watch(NodeConfig(), archive.database, lambda _: Room(), [kept, away]).look(LATER)
    assert [message.summary for message in kept.messages] == ["no candidate: a gate refused it", "candidate m-2"]
    assert kept.messages[0].title == "IAP node IAP_NODE: no candidate: a gate refused it"
    assert kept.news() == [("training_ended", Event.HAPPENED)] * 2
    away.is_away = False
    again = Watch(NodeConfig(), archive.database, lambda _: Room(), [kept, away])
    for later in (LATER, LATER + HOUR):
        again.look(later)
    assert kept.messages == [] and [message.at for message in away.messages] == [NOW, NOW]


@ON_SQLITE
def test_drift_is_told_by_parameter_and_names_no_scanner(
    make_archive: Callable[[], Archive], monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = [
        AlarmRate(Scanner("MAKER", "MODEL", serial), keyword, 0.01, 200, n, 0, 0)
        for serial, keyword, n in (("S1", "EchoTime", 40), ("S2", "EchoTime", 30), ("S2", "FlipAngle", 2))
    ]
    monkeypatch.setattr(conditions, "alarm_rates", lambda *_, **__: rates)  # tests/integration/database has the rest
    kept = Kept()
    Watch(NodeConfig(), make_archive().database, lambda _: Room(), [kept]).look(LATER)
    (message,) = kept.messages
    assert message.amounts == {"EchoTime": 2}
    assert not any(word in str(message) for word in ("MAKER", "MODEL", "S1", "S2", "FlipAngle"))


@ON_SQLITE
def test_the_scheduler_looks_where_somebody_is_to_be_told(
    make_archive: Callable[[], Archive], outside: Outside
) -> None:
    archive = make_archive()
    archive.refuse()
    (outside.folder / "var" / "spool").mkdir(parents=True)
    config = outside.config(kinds=["disk_low"], disk_full_in_days=0.5)
    config = config.model_copy(update={"spool": SpoolConfig(disk_reserve_mb=10**12)})
    (entry,) = [entry for entry in _table(config, archive.database, None) if entry.name == "notifications"]
    entry.run()
    assert [json.loads(body)["kind"] for _, body in outside.web.posts] == ["disk_low"]
    assert "notifications" not in [entry.name for entry in _table(NodeConfig(), archive.database, None)]


def test_config_yaml_shows_every_key_of_the_channels() -> None:
    text = (REPOSITORY / "config.yaml").read_text().partition("\nnotifications:")[2].partition("\n  kinds:")[0]
    email, webhook = text.split("\n  webhook:")
    assert [key for key in EmailConfig.model_fields if f"#  {key}:" not in email] == []
    assert [key for key in WebhookConfig.model_fields if f"#  {key}:" not in webhook] == []


@ON_SQLITE
def test_a_disk_that_cannot_be_asked_is_neither_full_nor_well_and_stops_nothing(
    make_archive: Callable[[], Archive],
) -> None:
    archive, kept = make_archive(), Kept()
    archive.refuse()

    def gone(_: object) -> Room:
        raise FileNotFoundError("no such disk")

    watch = Watch(NodeConfig(), archive.database, gone, [kept])
    assert TroubleKind.DISK_LOW not in watch.troubles(LATER)
    watch.look(LATER)
    assert kept.news() == [("quarantine_grown", Event.BEGUN)]


def answers(outside: Outside, database: Any, **changes: Any) -> dict[str, NodeError | None]:
    watch = Watch(outside.config(**changes), database, lambda _: Room())
    return watch.tell(watch.message("test", Event.TEST, "a test", "nothing", NOW))


def test_servers_that_refuse_are_named_and_no_password_is(outside: Outside) -> None:
    outside.mail.refuses, outside.web.status = True, 307
    refused = answers(outside, None)
    assert "the server answers 451" in str(refused["email"])
    assert "the webhook answers 307" in str(refused["webhook"])
    assert len(outside.web.posts) == 1  # what is signed for one address goes to no other
    outside.mail.password = "another"
    assert "refuses user and password" in str(answers(outside, None)["email"])
    assert "another" not in str(answers(outside, None)["email"])


def test_a_recipient_that_is_refused_costs_the_others_neither_the_mail_nor_their_patience(outside: Outside) -> None:
    outside.mail.unknown = "physics@hospital.example"
    assert answers(outside, None)["email"] is None
    assert len(outside.mail.mails) == 1


def test_a_server_whose_certificate_nobody_knows_gets_no_password(outside: Outside) -> None:
    email = {name: value for name, value in outside.content["notifications"]["email"].items() if name != "ca"}
    assert "certificate verify failed" in str(answers(outside, None, email=email)["email"])
    assert outside.mail.users == []


def test_a_secret_that_everybody_can_read_is_not_used(outside: Outside) -> None:
    (outside.folder / "webhook.secret").chmod(0o644)
    assert isinstance(answers(outside, None)["webhook"], ConfigError)


def test_the_command_sends_a_test_to_each_channel(outside: Outside) -> None:
    path = outside.folder / "config.yaml"
    path.write_text(json.dumps(outside.content))
    run = CliRunner()
    assert run.invoke(app, ["init", "-c", str(path)]).exit_code == 0
    done = run.invoke(app, ["notify", "--test", "-c", str(path)])
    assert done.exit_code == 0 and "email: taken" in done.output and "webhook: taken" in done.output
    assert [json.loads(body)["event"] for _, body in outside.web.posts] == ["test"] and len(outside.mail.mails) == 1
    shown = json.loads(run.invoke(app, ["notify", "--json", "-c", str(path)]).output)
    assert shown["enabled"] and set(shown["troubles"]) == {kind.value for kind in set(TroubleKind) - HAPPENS_ONCE}
    outside.web.status = 500
    assert run.invoke(app, ["notify", "--test", "-c", str(path)]).exit_code == 1


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"quiet_hours": "22-6"}, "22:00-06:00"),
        ({"quiet_hours": "24:00-06:00"}, "22:00-06:00"),
        ({"time_zone": "Zurich"}, "no time zone"),
        ({"webhook": {"url": "http://chat.example/hook", "secret_file": "s"}}, "begins with https://"),
        ({"email": {"host": "h", "sender": "a@b", "recipients": ["a@b\nBcc: c@d"]}}, "no e-mail address"),
        ({"email": {"host": "h", "sender": "a@b", "recipients": []}}, "recipients"),
        ({"email": {"host": "h", "sender": "a@b", "recipients": ["a@b"], "user": "u"}}, "go together"),
        ({"kinds": ["disk_lo"]}, "disk_low"),
    ],
)
def test_a_configuration_that_cannot_be_meant_is_refused(content: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse_config({"notifications": content}, Path("/etc/iap"))
