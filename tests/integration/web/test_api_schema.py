"""The API fuzzed from its own schema: whatever is asked there is no 500, and answers are as the schema says."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance
from starlette.testclient import TestClient

from iap_node.records import Role
from iap_node.web.actions import people
from iap_node.web.app import create_app
from iap_node.web.node import WebNode
from tests.integration.audit.simulated_archive import Series, file, finding

EXAMPLES = 4  # of each operation, valid ones and as many broken ones


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_no_request_that_the_schema_allows_or_forbids_breaks_the_api(
    web_node: WebNode, program: Callable[[Role], TestClient], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with web_node.database.transaction() as session:
        file(session, Series(1, datetime.now(UTC), findings=(finding(),)))
    config_path = tmp_path / "config.yaml"
    config_path.write_text("data_dir: data\nspool: {disk_reserve_mb: 0}\nrouting: {}\n")
    node = replace(web_node, config_path=config_path, ingest=filed)
    monkeypatch.setattr(people, "hash_password", lambda _: "slow on purpose: tested elsewhere")
    headers = {"Authorization": program(Role.ADMIN).headers["Authorization"]}
    schema = schemathesis.openapi.from_asgi("/api/v1/openapi.json", create_app(node))
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) >= 55
    checks: list[Any] = [not_a_server_error, response_schema_conformance, status_code_conformance]
    for operation, mode in itertools.product(operations, (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)):
        if mode is GenerationMode.NEGATIVE and not _can_be_broken(operation):
            continue

        @settings(
            max_examples=EXAMPLES, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(case=operation.as_strategy(generation_mode=mode))
        def ask(case: schemathesis.Case) -> None:
            case.call_and_validate(headers=headers, checks=checks)

        ask()


@dataclass(frozen=True)
class Filed:
    """What became of a file that is noise."""

    path: object
    outcome: str = "not_dicom"
    reason: str = "noise"


def filed(paths: list[Path]) -> list[Filed]:
    """An intake to which all is noise."""
    return [Filed(path) for path in paths]


def _can_be_broken(operation: Any) -> bool:
    """Whether it takes anything that could be wrong."""
    return bool(list(operation.iter_parameters()) or list(operation.body))
