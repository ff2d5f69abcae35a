"""What Prometheus scrapes, and that the dashboard asks for nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from iap_node.records import Role
from iap_node.web.node import WebNode
from tests.integration.audit.simulated_archive import NOVEL, Series, file, finding

REPOSITORY = Path(__file__).parents[3]


def test_metrics_tell_what_the_archive_holds(
    program: Callable[[Role], TestClient], client: Callable[[], TestClient], web_node: WebNode
) -> None:
    with web_node.database.transaction() as session:
        file(session, Series(1, datetime.now(UTC), findings=(finding(),)))
        file(session, Series(2, datetime.now(UTC), pixels=NOVEL))
    assert client().get("/metrics").status_code == 303
    answer = program(Role.VIEWER).get("/metrics")
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }
    assert found["iap_series", "judged"] == 2 and found["iap_findings_open", "error"] == 1
    assert found["iap_novel_share",] == 0.5 and found["iap_judgement_seconds",] == 0.0
    assert found["iap_disk_size_bytes",] > found["iap_disk_free_bytes",] > 0


def test_the_dashboard_shows_metrics_that_are_there(program: Callable[[Role], TestClient]) -> None:
    dashboard = json.loads((REPOSITORY / "docs" / "grafana-dashboard.json").read_text("utf-8"))
    there = {family.name for family in text_string_to_metric_families(program(Role.VIEWER).get("/metrics").text)}
    asked = {re.match(r"\w+", target["expr"])[0] for panel in dashboard["panels"] for target in panel["targets"]}  # type: ignore[index]
    assert asked and asked <= there
