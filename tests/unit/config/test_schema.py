"""The published schema of config.yaml: current, true, and named where editors look."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from iap_node.config.routing import RoutingConfig
from iap_node.config.schema import config_schema, config_schema_text

REPOSITORY = Path(__file__).resolve().parents[3]
CONFIG_TEXT = (REPOSITORY / "config.yaml").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    Draft202012Validator.check_schema(config_schema())
    return Draft202012Validator(config_schema())


def test_the_published_schema_is_current() -> None:
    published = (REPOSITORY / "docs" / "config.schema.json").read_text(encoding="utf-8")
    assert published == config_schema_text(), "run `iap-node config-schema > docs/config.schema.json`"


def test_config_yaml_names_the_schema_for_editors_and_obeys_it(validator: Draft202012Validator) -> None:
    first = CONFIG_TEXT.splitlines()[0]
    assert first == "# yaml-language-server: $schema=docs/config.schema.json"
    validator.validate(yaml.safe_load(CONFIG_TEXT))


def test_the_examples_of_config_yaml_are_valid(validator: Draft202012Validator) -> None:
    """Its routing section with every example in it, as a reader would take them over."""
    lines = CONFIG_TEXT.splitlines()
    begin = lines.index(next(line for line in lines if line.startswith("routing:")))
    end = next(number for number in range(begin + 1, len(lines)) if not lines[number].startswith("  "))
    section = "\n".join(lines[begin:end]).replace("  #  ", "    ").replace(": {}", ":")
    content = yaml.safe_load(section)
    validator.validate(content)
    routing = RoutingConfig.model_validate(content["routing"])
    assert set(routing.rules) == {"contradictions_first", "research"}
    assert set(routing.domains) == {"siemens_3t"} and set(routing.downstream_models) == {"lesion_finder"}


def test_the_example_of_the_readme_is_valid(validator: Draft202012Validator) -> None:
    (example,) = re.findall(r"```yaml\n(routing:.*?)```", (REPOSITORY / "README.md").read_text("utf-8"), re.DOTALL)
    content = yaml.safe_load(example)
    validator.validate(content)
    assert len(RoutingConfig.model_validate(content["routing"]).rules) == 2


@pytest.mark.parametrize(
    "content",
    [
        {"routing": {"ruls": {}}},
        {"routing": {"rules": {"r": {"when": {"series": "Modalty", "equals": "MR"}, "stop": True}}}},
        {"routing": {"rules": {"r": {"when": {"all": []}, "stop": True}}}},
        {"routing": {"domains": {"d": {"all": [{"parameter": "EchoTimes", "equals": 1}]}}}},
        {"routing": {"rules": {"r": {"when": {"finding": "any", "severity": "grave"}, "stop": True}}}},
    ],
)
def test_the_schema_refuses_what_the_node_refuses(content: dict[str, Any], validator: Draft202012Validator) -> None:
    assert not validator.is_valid(content)
