"""STOW-RS over ASGI: what is stored, what fails and how that is told, who may, and hostile bodies.

Real senders and sockets are `tests/integration/partners/test_stow_senders.py`'s.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from sqlalchemy import select
from starlette.testclient import TestClient

from iap_node.config import ListenerConfig
from iap_node.config.web import StowConfig
from iap_node.database import accounts
from iap_node.database.tables import ConflictRow, InstanceRow, QuarantineRow
from iap_node.dicom.status import StoreStatus
from iap_node.dicom.store_instances import STUDY_MISMATCH
from iap_node.listener.intake import Intake
from iap_node.listener.limits import DiskReserve
from iap_node.listener.stow import StowIntake
from iap_node.records import Role, TokenScope
from iap_node.spool import Spool
from iap_node.web.app import create_app
from iap_node.web.dicomweb.multipart import NotMultipart, RelatedParser, TooManyParts
from iap_node.web.node import WebNode
from iap_node.web.secrets import hash_token, new_token
from tests.integration.listener.conftest import lying_in, make_instance, split_part10
from tests.integration.web.conftest import Browser
from tests.integration.web.test_upload import part10

BOUNDARY = "a-b.c"
TYPE = f'multipart/related; type="application/dicom"; boundary={BOUNDARY}'
MIB = 1024**2
STUDY = "1.2.840.99.1"

pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


def part(content: bytes, headers: str = "Content-Type: application/dicom\r\n") -> bytes:
    return f"--{BOUNDARY}\r\n{headers}\r\n".encode() + content + b"\r\n"


def body(*files: bytes) -> bytes:
    return b"".join(map(part, files)) + f"--{BOUNDARY}--".encode()


class FakeDisk(DiskReserve):
    """A disk that says what the test says."""

    def __init__(self) -> None:
        self.low = ""
        self.room_for = 1000  # that often it is asked before it is low

    def refusal(self, expected_bytes: int = 0) -> str | None:
        self.room_for -= 1
        return self.low or ("the disk has 3 MB left" if self.room_for < 0 else None)

    def refusal_of_running(self) -> str | None:
        return None


class StowNode:
    """A console that takes instances, with a sender that has a token."""

    def __init__(self, web_node: WebNode, intake: Intake) -> None:
        self.disk = FakeDisk()
        self.intake = intake
        self.spool = intake._spool
        listener = ListenerConfig(max_instance_mb=1)
        stow = StowConfig(enabled=True, max_requests=2, max_request_mb=8)
        web = web_node.config.web.model_copy(update={"stow": stow})
        config = web_node.config.model_copy(update={"web": web})
        self.stow = StowIntake(intake, self.disk, listener, stow)
        self.node = replace(web_node, config=config, stow=self.stow)
        self.client = TestClient(create_app(self.node), base_url="http://console")
        self.token = new_token()
        with web_node.database.transaction() as session:
            now = datetime.now(UTC)
            owner = accounts.create_account(session, "Ada", Role.ADMIN, now)
            accounts.create_token(
                session, hash_token(self.token), "PACS_1", owner, Role.VIEWER, now, scope=TokenScope.STORE
            )

    def post(self, content: Any, path: str = "/dicomweb/studies", **headers: str) -> Any:
        head = {"Content-Type": TYPE, "Authorization": f"Bearer {self.token}"}
        head |= {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.post(path, content=content, headers=head)

    def rows(self, table: Any) -> list[Any]:
        with self.node.database.reading() as session:
            return list(session.scalars(select(table)))


@pytest.fixture
def stow(web_node: WebNode) -> Iterator[StowNode]:
    with closing(Intake(Spool(web_node.config.spool_dir), web_node.database, b"k" * 32)) as intake:
        yield StowNode(web_node, intake)


def told(answer: Any) -> tuple[list[str], list[tuple[str, int]], list[int]]:
    """SOP Instance UIDs that are stored, those that failed with their reasons, reasons of what has no name."""
    assert answer.headers["content-type"] == "application/dicom+json"
    ds = Dataset.from_json(answer.text)
    assert ds.RetrieveURL in ("", None)
    failed = [(one.ReferencedSOPInstanceUID, one.FailureReason) for one in ds.get("FailedSOPSequence", [])]
    others = [one.FailureReason for one in ds.get("OtherFailuresSequence", [])]
    return [one.ReferencedSOPInstanceUID for one in ds.get("ReferencedSOPSequence", [])], failed, others


def test_instances_are_stored_to_the_bit_under_the_name_of_their_sender(stow: StowNode) -> None:
    first, second = make_instance(), make_instance(InstanceNumber=2)
    answer = stow.post(body(part10(first), part10(second)), f"/dicomweb/studies/{STUDY}")
    assert answer.status_code == 200
    assert told(answer) == ([first.SOPInstanceUID, second.SOPInstanceUID], [], [])
    rows = stow.rows(InstanceRow)  # they are there when the answer is
    assert {row.sop_instance_uid for row in rows} == {first.SOPInstanceUID, second.SOPInstanceUID}
    assert {(row.calling_ae_title, row.source_address) for row in rows} == {("PACS_1", "testclient")}
    for row, ds in zip(sorted(rows, key=lambda row: row.id), (first, second), strict=True):
        with stow.spool.locate(row.spool_path).open("rb") as file:
            assert split_part10(file.read()) == split_part10(part10(ds))


def test_the_same_again_changes_nothing_and_other_bytes_are_kept_aside(stow: StowNode) -> None:
    ds = make_instance()
    assert stow.post(body(part10(ds))).status_code == 200
    assert stow.post(body(part10(ds), part10(ds))).status_code == 200
    ds.EchoTime = "99"
    assert stow.post(body(part10(ds))).status_code == 200
    assert len(stow.rows(InstanceRow)) == 1 and len(stow.rows(ConflictRow)) == 1


def test_an_instance_of_another_study_fails_and_is_not_kept(stow: StowNode) -> None:
    here, elsewhere = make_instance(), make_instance(StudyInstanceUID="1.2.840.99.2")
    answer = stow.post(body(part10(here), part10(elsewhere)), f"/dicomweb/studies/{STUDY}")
    assert answer.status_code == 202
    assert told(answer) == ([here.SOPInstanceUID], [(elsewhere.SOPInstanceUID, STUDY_MISMATCH)], [])
    answer = stow.post(body(part10(elsewhere)), f"/dicomweb/studies/{STUDY}")
    assert answer.status_code == 409 and told(answer)[1] == [(elsewhere.SOPInstanceUID, STUDY_MISMATCH)]
    assert [row.sop_instance_uid for row in stow.rows(InstanceRow)] == [here.SOPInstanceUID]
    assert len(lying_in(stow.spool)) == 1 and not stow.rows(QuarantineRow)


def test_what_cannot_be_identified_is_quarantined_and_told(stow: StowNode) -> None:
    nameless = make_instance(SeriesInstanceUID=None)
    answer = stow.post(body(part10(nameless), b"no DICOM at all", b""))
    assert answer.status_code == 409
    reason = int(StoreStatus.CANNOT_UNDERSTAND)
    assert told(answer) == ([], [(nameless.SOPInstanceUID, reason)], [reason, reason])
    assert {row.reason[:17] for row in stow.rows(QuarantineRow)} == {"Series Instance U", "Transfer Syntax U"}


def test_one_that_is_too_large_fails_alone_and_one_far_beyond_ends_the_request(stow: StowNode) -> None:
    small, large = make_instance(), make_instance(PixelData=bytes(MIB))
    answer = stow.post(body(part10(large), part10(small)))
    assert answer.status_code == 202
    assert told(answer) == (
        [small.SOPInstanceUID], [(large.SOPInstanceUID, int(StoreStatus.CANNOT_UNDERSTAND))], []
    )  # fmt: skip
    far_beyond = make_instance(PixelData=bytes(3 * MIB))
    answer = stow.post(body(part10(small), part10(far_beyond)))
    assert answer.status_code == 413 and told(answer)[0] == [small.SOPInstanceUID]
    assert len(lying_in(stow.spool)) == 1


def test_while_the_disk_is_low_or_all_places_are_taken_nothing_is_read(stow: StowNode) -> None:
    def unread() -> Iterator[bytes]:
        raise AssertionError("it was read")
        yield b""

    stow.disk.low = "the disk has 3 MB left"
    asks = {"Content_Length": "1000", "Expect": "100-continue"}
    answer = stow.post(unread(), **asks)
    assert answer.status_code == 503 and "3 MB left" in answer.json()["detail"] and answer.headers["Retry-After"]
    stow.disk.low = ""
    others = [stow.stow.begin("PACS_2", "127.0.0.1", None) for _ in range(2)]
    assert stow.post(unread(), **asks).status_code == 503
    for one in others:
        one.close()
        one.close()
    assert stow.post(body(part10(make_instance()))).status_code == 200


def test_a_disk_that_gets_low_in_the_middle_keeps_what_came_before(stow: StowNode) -> None:
    first, second = make_instance(), make_instance()
    stow.disk.room_for = 2  # before the request, before the first instance
    answer = stow.post(body(part10(first), part10(second)))
    low = [(second.SOPInstanceUID, int(StoreStatus.OUT_OF_RESOURCES))]
    assert (answer.status_code, told(answer)) == (202, ([first.SOPInstanceUID], low, []))
    stow.disk.room_for = 1
    answer = stow.post(body(part10(second)))
    assert (answer.status_code, told(answer)) == (503, ([], low, [])) and answer.headers["Retry-After"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Authorization": ""}, 401),
        ({"Authorization": "Bearer nonsense"}, 401),
        ({"Authorization": "Basic YTpi"}, 401),
        ({"Content_Type": "application/dicom"}, 415),
        ({"Content_Type": "multipart/form-data; boundary=x"}, 415),
        ({"Content_Type": 'multipart/related; type="application/dicom+json"; boundary=x'}, 415),
        ({"Content_Encoding": "gzip"}, 415),
        ({"Content_Type": 'multipart/related; type="application/dicom"'}, 400),
        ({"Content_Type": f'multipart/related; type="application/dicom"; boundary={"x" * 300}'}, 400),
        ({"Content_Type": "multipart/related; boundary=another"}, 400),
        ({"Accept": "application/dicom+xml"}, 406),
        ({"Content_Length": str(9 * MIB)}, 413),
    ],
)  # fmt: skip
def test_requests_that_are_none_are_told_so_and_leave_nothing(
    stow: StowNode, headers: dict[str, str], status: int
) -> None:
    answer = stow.post(body(part10(make_instance())), **headers)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert not lying_in(stow.spool) and not stow.rows(InstanceRow)


def test_only_a_token_of_its_own_scope_stores_and_it_opens_nothing_else(
    stow: StowNode, program: Callable[[Role], TestClient], signed_in: Callable[..., Browser]
) -> None:
    admin = program(Role.ADMIN).headers["Authorization"]
    assert stow.post(body(part10(make_instance())), Authorization=admin).status_code == 403
    cookie = {"Content-Type": TYPE, "X-CSRF-Token": signed_in(Role.ADMIN).csrf()}
    browser = signed_in(Role.ADMIN).client
    stow.client.cookies = browser.cookies
    content = body(part10(make_instance()))
    assert stow.client.post("/dicomweb/studies", content=content, headers=cookie).status_code == 401
    stow.client.cookies.clear()
    headers = {"Authorization": f"Bearer {stow.token}"}
    assert stow.client.get("/api/v1/series", headers=headers).status_code == 401
    assert not stow.rows(InstanceRow)


def test_a_node_that_takes_nothing_by_stow_says_so(client: Callable[[], TestClient]) -> None:
    answer = client().post("/dicomweb/studies", content=b"x")
    assert answer.status_code == 404 and "web.stow.enabled" in answer.json()["detail"]


END = f"--{BOUNDARY}--".encode()
HOSTILE: dict[str, tuple[Callable[[bytes], bytes], int, int]] = {  # what follows a whole instance; what comes of it
    "no last boundary": (part, 400, 1),
    "cut off within an instance": (lambda file: part(file)[:-100], 400, 1),
    "cut off within its headers": (lambda file: part(file)[:30], 400, 1),
    "a boundary and nothing": (lambda _: f"--{BOUNDARY}\r\n".encode(), 400, 1),
    "noise behind a boundary": (lambda _: f"--{BOUNDARY}\r\n\xff\xfe\r\n".encode("latin-1"), 400, 1),
    "a hundred headers": (lambda file: part(file, "".join(f"X-{n}: y\r\n" for n in range(100))) + END, 400, 1),
    "an endless header": (lambda file: part(file, f"X: {'y' * 100_000}\r\n") + END, 400, 1),
    "an endless name": (lambda file: part(file, f"{'y' * 100_000}: X\r\n") + END, 400, 1),
    "a header that is none": (lambda file: part(file, "Content-Type : application/dicom\r\n") + END, 400, 1),
    "one within the other": (
        lambda file: part(b"--in\r\n\r\n" + file + b"\r\n--in--", "Content-Type: multipart/related; boundary=in\r\n")
        + part(file) + END, 202, 2,
    ),
    "text": (lambda file: part(file, "Content-Type: text/plain\r\n") + END, 202, 1),
    "base64": (lambda file: part(file, "Content-Transfer-Encoding: base64\r\n") + END, 202, 1),
    "zipped": (lambda file: part(file, "Content-Encoding: gzip\r\n") + END, 202, 1),
    "words behind the end": (lambda file: part(file) + END + b"\r\n--a-b.c\r\n\r\n" + file, 200, 2),
    "no type of a part": (lambda file: part(file, "") + END, 200, 2),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_bodies_end_with_an_error_and_what_came_whole_before_is_kept(stow: StowNode, name: str) -> None:
    follows, status, n_kept = HOSTILE[name]
    first, second = make_instance(), make_instance()
    answer = stow.post(part(part10(first)) + follows(part10(second)))
    assert answer.status_code == status, answer.text
    stored, _, _ = told(answer)
    assert stored[0] == first.SOPInstanceUID and len(stored) == n_kept
    assert {row.sop_instance_uid for row in stow.rows(InstanceRow)} == set(stored)
    assert len(lying_in(stow.spool)) == len(stored)


def test_a_path_that_names_no_study_is_told_so(stow: StowNode) -> None:
    for study in ("1.2.x", "..%2F..", "9" * 65):
        assert stow.post(body(part10(make_instance())), f"/dicomweb/studies/{study}").status_code in (400, 404)


@pytest.mark.parametrize("content", [b"", b"no boundary at all", END, b"\r\n" * 5])
def test_a_body_without_an_instance_is_no_request(stow: StowNode, content: bytes) -> None:
    answer = stow.post(content, Content_Length=str(len(content)))
    assert answer.status_code == 400 and answer.headers["content-type"] == "application/problem+json"
    assert not lying_in(stow.spool)


def test_no_mutation_of_a_request_is_an_error_of_ours(stow: StowNode) -> None:
    """Each part that begins has one status, and what is told to be stored has a row: no more, no less."""
    whole = body(part10(make_instance()), part10(make_instance()))

    @settings(
        max_examples=150, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(
        edits=st.lists(st.tuples(st.integers(0, len(whole)), st.integers(0, 40), st.binary(max_size=40)), max_size=4),
        cuts=st.lists(st.integers(1, len(whole)), max_size=6),
    )
    def check(edits: list[tuple[int, int, bytes]], cuts: list[int]) -> None:
        content = whole
        for at, length, instead in edits:
            content = content[:at] + instead + content[at + length :]
        reception = stow.stow.begin("PACS_1", "127.0.0.1", None)
        try:
            parser = RelatedParser(BOUNDARY, reception)
            for begin, end in zip([0, *sorted(cuts)], [*sorted(cuts), None], strict=True):
                parser.write(content[begin:end])
        except (NotMultipart, TooManyParts):
            pass
        finally:
            reception.settle()
            reception.close()
        stored = {one.sop_instance_uid for one in reception.parts if one.stored}
        assert stored <= {row.sop_instance_uid for row in stow.rows(InstanceRow)}
        json.dumps([one.why for one in reception.parts])

    check()
    n_held = len(stow.rows(InstanceRow)) + len(stow.rows(ConflictRow)) + len(stow.rows(QuarantineRow))
    assert len([path for path in lying_in(stow.spool) if path.suffix != ".json"]) == n_held
