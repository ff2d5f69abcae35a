"""Files from the browser end where C-STORE's end."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import pytest
from pydicom.filewriter import dcmwrite
from starlette.requests import Request
from starlette.testclient import TestClient

from iap_node.database import archive
from iap_node.listener.folder import ImportedFile, import_files
from iap_node.listener.intake import Intake
from iap_node.records import Role
from iap_node.spool import Spool
from iap_node.web.actions import files
from iap_node.web.app import create_app
from iap_node.web.node import WebNode
from tests.integration.listener.conftest import make_instance
from tests.integration.web.conftest import Browser


@pytest.fixture
def web_node(web_node: WebNode) -> WebNode:
    """With an intake, as `iap-node web` hands one over."""

    def ingest(paths: list[Path]) -> Iterable[ImportedFile]:
        with closing(Intake(Spool(web_node.config.spool_dir), web_node.database, b"k" * 32)) as intake:
            yield from import_files(paths, intake)

    return replace(web_node, ingest=ingest)


def part10(ds: object) -> bytes:
    file = BytesIO()
    dcmwrite(file, ds, enforce_file_format=True)  # type: ignore[arg-type]
    return file.getvalue()


def test_uploaded_instances_are_filed_and_the_others_named_with_their_reason(
    signed_in: Callable[..., Browser], web_node: WebNode
) -> None:
    ds = make_instance()
    files = [
        ("files", ("../../a.dcm", part10(ds))),
        ("files", ("again.dcm", part10(ds))),
        ("files", ("<b>notes.txt", b"not dicom at all")),
    ]
    answer = signed_in(Role.OPERATOR).post("/upload", files=files)
    assert answer.json()["counts"] == {"stored": 1, "duplicate": 1, "not_dicom": 1}
    assert [one["name"] for one in answer.json()["refused"]] == ["<b>notes.txt"]
    with web_node.database.reading() as session:
        (series,) = archive.list_series(session)
    assert series.series_instance_uid == ds.SeriesInstanceUID and series.n_instances == 1
    assert not list(web_node.config.data_dir.glob("upload-*"))


def test_a_viewer_uploads_nothing(signed_in: Callable[..., Browser]) -> None:
    answer = signed_in(Role.VIEWER).post("/upload", files=[("files", ("a", b"x"))])
    assert answer.status_code == 403


def test_a_console_without_an_intake_says_so(
    signed_in: Callable[..., Browser], web_node: WebNode, client: Callable[[], TestClient]
) -> None:
    browser = signed_in(Role.OPERATOR)
    browser.client = TestClient(
        create_app(replace(web_node, ingest=None)), base_url="http://console", cookies=browser.client.cookies
    )
    assert browser.post("/upload", files=[("files", ("a", b"x"))]).status_code == 503


def test_without_room_on_the_disk_nothing_of_the_body_is_read(
    signed_in: Callable[..., Browser], web_node: WebNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser = signed_in(Role.OPERATOR)
    monkeypatch.setattr(Request, "form", lambda *_, **__: pytest.fail("the form was read"))
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: SimpleNamespace(free=150))
    answer = browser.post("/upload", content=b"x" * 100, headers={"Content-Type": "multipart/form-data; boundary=b"})
    assert answer.status_code == 507 and "spool.disk_reserve_mb" in answer.text


def test_series_are_watched_on_their_way_from_the_page_on(signed_in: Callable[..., Browser]) -> None:
    began = datetime.now(UTC)
    browser = signed_in(Role.OPERATOR)
    browser.post("/upload", files=[("files", ("a.dcm", part10(make_instance(SeriesDescription="<b>new"))))])
    assert "&lt;b&gt;new" in browser.get("/upload/through", params={"since": began.isoformat()}).text
    later = (began + timedelta(hours=1)).isoformat()
    assert "no series here" in browser.get("/upload/through", params={"since": later}).text
    assert browser.get("/upload/through?since=yesterday").status_code == 422
