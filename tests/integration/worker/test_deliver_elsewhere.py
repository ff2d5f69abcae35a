"""DELIVER jobs to destinations that speak no DICOM network protocol, from the queue to the file or the message."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from iap_node.database.destination_health import pauses
from iap_node.records import JobKind, JobState
from iap_node.results.content import series_result
from iap_node.results.schema import message_schema
from iap_node.worker.deliver import DeliverHandler
from iap_node.worker.loop import run_once


def deliver(node: Any) -> bool:
    handler = DeliverHandler(node.database, node.spool, node.config)
    return run_once(JobKind.DELIVER, handler, node.database, node.config.jobs, "test:deliver")


@pytest.fixture
def hook() -> Iterator[tuple[str, list[Any], list[int]]]:
    """A receiver's URL, what it got, and the codes that it answers with, the last one again and again."""
    got: list[Any] = []
    codes = [200]

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(codes.pop(0) if len(codes) > 1 else codes[0])
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/", got, codes
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_folder_gets_the_whole_series_once(
    make_node: Callable[..., Any], scripted: Any, write_instance: Any, tmp_path: Path
) -> None:
    target = tmp_path / "out"
    target.mkdir()
    folder = {"kind": "folder", "path": target, "template": "{Modality}/{SOPInstanceUID}.dcm"}
    node = make_node(destinations={"lesions": folder, "people": folder})
    node.complete([write_instance() for _ in range(3)])
    node.infer(scripted())
    assert deliver(node)
    assert node.job(JobKind.DELIVER).state is JobState.DONE
    assert {path.stem for path in (target / "MR").iterdir()} == set(node.instance_ids())


def test_a_webhook_is_told_the_result_with_where_the_model_comes_from_and_no_patient(
    make_node: Callable[..., Any], scripted: Any, write_instance: Any, tmp_path: Path, hook: Any, wait_for: Any
) -> None:
    url, got, codes = hook
    codes[:] = [503, 200]
    secret = tmp_path / "secret"
    secret.write_text("s")
    secret.chmod(0o600)
    webhook = {"kind": "webhook", "url": url, "secret_file": secret}
    node = make_node(destinations={"lesions": webhook, "people": webhook})
    node.complete([write_instance(PatientID="PAT-4711", PatientName="Doe^John") for _ in range(2)])
    node.infer(scripted())
    wait_for(lambda: deliver(node) and node.job(JobKind.DELIVER).state is JobState.DONE, "the result")
    assert len(got) == 2 and got[0] == got[1]
    message = got[1]
    assert (message["event"], message["destination"], message["delivery"], message["shadow"]) == (
        "result", "lesions", "1.2.3.4/1/lesions", False,
    )  # fmt: skip
    assert message["route"]["destinations"] == ["lesions"]
    with node.database.reading() as session:
        assert message["result"] == series_result(session, node.series().id).as_json()
    assert message["result"]["model"]["training_data"] == "none: scripted for a test"
    Draft202012Validator(message_schema()).validate(message)
    assert "4711" not in json.dumps(got) and "Doe" not in json.dumps(got)


def test_a_webhook_that_refuses_makes_a_dead_letter_with_the_remedy(
    make_node: Callable[..., Any], scripted: Any, write_instance: Any, tmp_path: Path, hook: Any
) -> None:
    url, got, codes = hook
    codes[:] = [401]
    (tmp_path / "secret").write_text("s")
    (tmp_path / "secret").chmod(0o600)
    webhook = {"kind": "webhook", "url": url, "secret_file": tmp_path / "secret"}
    node = make_node(destinations={"lesions": webhook, "people": webhook})
    node.complete([write_instance()])
    node.infer(scripted())
    assert deliver(node)
    job = node.job(JobKind.DELIVER)
    assert job.state is JobState.DEAD and "answers 401: check its token, secret" in (job.error or "")
    assert len(got) == 1


def test_a_destination_that_is_down_is_left_alone_by_the_queue(
    make_node: Callable[..., Any], scripted: Any, write_instance: Any, tmp_path: Path
) -> None:
    folder = {"kind": "folder", "path": tmp_path / "unmounted"}
    patient = {"lease_s": 60.0, "poll_s": 0.01, "max_attempts": 30, "backoff_s": 1e-6, "backoff_max_s": 3600.0}
    node = make_node(
        destinations={"lesions": folder, "people": folder}, jobs=patient | {"breaker_failures": 2, "breaker_s": 3600.0}
    )
    node.complete([write_instance()])
    node.infer(scripted())
    assert deliver(node) and deliver(node)
    assert not deliver(node)
    assert node.job(JobKind.DELIVER).attempts == 1  # the one that was the last straw speaks of the destination
    with node.database.reading() as session:
        (pause,) = pauses(session)
    assert (pause.destination, pause.failures) == ("lesions", 2) and "mount its disk" in pause.error
