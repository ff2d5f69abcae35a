"""Models in the console and in the API: who may change what is at work, and that it is written down who did."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from iap_node.database import accounts, models, retraining
from iap_node.database.tables import ModelEventKind
from iap_node.inference import registry
from iap_node.inference.package import WEIGHTS_FILE, package_folder
from iap_node.records import Role
from iap_node.web import model_report
from iap_node.web.node import WebNode
from tests.integration.web.conftest import Browser

pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)  # the queries are tried on PostgreSQL too

People = Callable[..., Browser]
Programs = Callable[[Role], TestClient]


@pytest.fixture
def two(web_node: WebNode, tmp_path: Path) -> tuple[str, str]:
    """The shipped model as champion, and another as a candidate."""
    data, database, now = web_node.config.data_dir, web_node.database, datetime.now(UTC)
    first = registry.begin_with("reference", data, database, now)
    other = Path(shutil.copytree(package_folder("reference"), tmp_path / "other"))
    manifest = json.loads((other / "model.json").read_text())
    (other / "model.json").write_text(json.dumps(manifest | {"version": "<b>9"}))
    with pytest.raises(Exception, match="letters, digits"):
        registry.add_package(other, data, database, "eve", "", now)
    (other / "model.json").write_text(json.dumps(manifest | {"version": "9", "training_data": "<b>our scanners"}))
    return first.model_id, registry.add_package(other, data, database, "eve", "", now).model_id


def test_an_admin_promotes_and_rolls_back_on_the_page_and_the_trail_says_so(
    web_node: WebNode, signed_in: People, two: tuple[str, str]
) -> None:
    first, second = two
    admin = signed_in(Role.ADMIN, "ada")
    shown = admin.get("/models").text
    assert first in shown and second in shown and "&lt;b&gt;our scanners" in shown
    assert "Coverage" in admin.get(f"/models/{first}").text  # its figures came with the package
    assert "in shadow for the next 7" in admin.post(f"/models/{second}/shadow", {"series": "7"}).text
    assert "0 of 7 series" in admin.get("/models").text
    assert "out of shadow" in admin.post(f"/models/{second}/end-shadow").text
    assert "champion; workers change" in admin.post(f"/models/{second}/promote", {"reason": "better at 7 T"}).text
    assert f"{first} is champion again" in admin.post("/models/roll-back", {"reason": "worse at 3 T"}).text
    assert "retired" in admin.get(f"/models/{second}").text
    with web_node.database.reading() as session:
        trail = [(one.who, one.action, one.subject, one.detail) for one in accounts.trail(session)]
    assert ("ada", "promote model", second, "better at 7 T") in trail
    assert ("ada", "roll back model", first, "worse at 3 T") in trail
    assert admin.client.post(f"/models/{second}/promote").status_code == 403  # without the CSRF token


def test_others_look_and_change_nothing(signed_in: People, program: Programs, two: tuple[str, str]) -> None:
    operator = signed_in(Role.OPERATOR)
    assert "Promote" not in operator.get(f"/models/{two[1]}").text
    paths = ("promote", "shadow", "end-shadow", "retire")
    for path in (*(f"/models/{two[1]}/{name}" for name in paths), "/models/roll-back", "/models/retrain"):
        assert operator.post(path, {"series": "1"}).status_code == 403
    api = program(Role.OPERATOR)
    assert [one["state"] for one in api.get("/api/v1/models").json()] == ["champion", "candidate"]
    for name in paths:
        assert api.post(f"/api/v1/models/{two[1]}/{name}", json={}).status_code == 403
    assert api.post("/api/v1/retrainings").status_code == 403


def test_programs_do_what_the_page_does(web_node: WebNode, program: Programs, two: tuple[str, str]) -> None:
    first, second = two
    api = program(Role.ADMIN)
    assert api.post("/api/v1/models/roll-back", json={}).status_code == 409
    assert api.get("/api/v1/models/nobody").status_code == 404
    assert api.post("/api/v1/models/nobody/promote", json={}).headers["content-type"] == "application/problem+json"
    begun = api.post(f"/api/v1/models/{second}/shadow", json={"series": 5}).json()
    assert (begun["state"], begun["shadow_series"]) == ("shadow", 5)
    assert api.get(f"/api/v1/models/{second}/agreement").json()["agreement"]["n_series"] == 0
    metrics = api.get("/metrics").text
    assert f'iap_model{{model="{second}",state="shadow"}} 1.0' in metrics and "iap_shadow_series 0.0" in metrics
    assert api.post(f"/api/v1/models/{second}/end-shadow", json={}).json()["state"] == "candidate"
    assert api.post(f"/api/v1/models/{second}/promote", json={"reason": "x"}).json()["predecessor_id"] == first
    assert api.post("/api/v1/models/roll-back", json={}).json()["model_id"] == first
    assert api.post(f"/api/v1/models/{first}/retire", json={}).status_code == 409
    detail = api.get(f"/api/v1/models/{second}").json()
    assert detail["manifest"]["version"] == "9" and detail["gates"] is None
    page = api.get("/api/v1/model-events", params={"limit": 2}).json()
    assert [one["event"] for one in page["items"]] == ["restored", "rolled_back"]
    older = api.get("/api/v1/model-events", params={"limit": 200, "cursor": page["next"], "model_id": second}).json()
    assert [one["event"] for one in older["items"]] == ["promoted", "shadow_ended", "shadow_begun", "registered"]
    (web_node.config.data_dir / "models" / second / WEIGHTS_FILE).write_bytes(b"")
    damaged = api.post(f"/api/v1/models/{second}/promote", json={})
    assert damaged.status_code == 422 and "SHA-256" in damaged.json()["detail"]


def test_a_training_is_asked_for_once_and_its_progress_is_seen(
    web_node: WebNode, signed_in: People, program: Programs
) -> None:
    admin, api = signed_in(Role.ADMIN), program(Role.ADMIN)
    assert "is asked for" in admin.post("/models/retrain").text
    second = api.post("/api/v1/retrainings")
    assert second.status_code == 409 and "under way" in second.json()["detail"]
    (run,) = api.get("/api/v1/retrainings").json()["items"]
    now = datetime.now(UTC)
    with web_node.database.transaction() as session:
        retraining.begin_run(session, run["id"], None, "host", 1, now)
        retraining.tell_progress(session, run["id"], "training", 0.25, "epoch 3 of 12", now)
    shown = admin.get("/models").text
    assert "training, 25 %" in shown and "epoch 3 of 12" in shown
    assert "ends" in admin.post("/models/cancel-retraining").text
    found = api.get(f"/api/v1/retrainings/{run['id']}").json()
    assert (found["progress"], bool(found["cancelled_by"])) == (0.25, True)
    assert api.get("/api/v1/retrainings/99").status_code == 404
    assert api.post("/api/v1/retrainings").status_code == 409


def test_a_champion_that_a_worker_cannot_load_is_told(
    web_node: WebNode, client: Callable[[], TestClient], signed_in: People, two: tuple[str, str]
) -> None:
    with web_node.database.transaction() as session:
        models.note_event(session, two[0], ModelEventKind.NOT_LOADED, "host:infer", "damaged", datetime.now(UTC))
    answer = client().get("/readyz")
    assert (answer.status_code, answer.text.splitlines()) == (
        200, ["ready", f"model {two[0]} does not load at host:infer; another works in its place"],
    )  # fmt: skip
    assert "does not load at host:infer: damaged" in signed_in(Role.VIEWER).get("/models").text


def test_figures_that_are_not_as_expected_are_not_shown(web_node: WebNode, two: tuple[str, str]) -> None:
    with web_node.database.reading() as session:
        model = models.model(session, two[0])
    found = model_report.evaluation_of(model)
    assert found is not None and len(found.covered) == 12 and len(found.drawn) == 10
    reliable = {"keyword": "EchoTime", "reliability": [{"n": 3, "confidence": 0.9, "accuracy": 1.0}]}
    model.provenance["evaluation"] = {"heads": [reliable]}
    found = model_report.evaluation_of(model)
    assert found is not None and [head.title for head in found.drawn] == ["Echo Time"]
    model.provenance["evaluation"] = {"heads": "many"}
    assert model_report.evaluation_of(model) is None
