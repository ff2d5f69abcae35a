"""Configuration: what is accepted, and that every refusal names the key and the remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from iap_node.config import NodeConfig, load_config, parse_config
from iap_node.errors import ConfigError

BASE = Path("/etc/iap")


def refusal(content: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as error:
        parse_config(content, BASE)
    return str(error.value)


@pytest.mark.parametrize(
    ("content", "key", "suggestion"),
    [
        ({"listner": {}}, "listner", "'listener'"),
        ({"listener": {"prot": 104}}, "listener.prot", "'port'"),
        ({"listener": {"tls": {"certficate": "a.pem"}}}, "listener.tls.certficate", "'certificate'"),
        ({"destinations": {"a": {"ae_titel": "A", "host": "h", "port": 1}}}, "destinations.a.ae_titel", "'ae_title'"),
        (
            {"routing": {"domains": {"d": {"all": [{"paramter": "EchoTime", "near": 1, "within": 1}]}}}},
            "routing.domains.d.all.0.paramter",
            "'parameter'",
        ),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_right_one(content: dict[str, Any], key: str, suggestion: str) -> None:
    text = refusal(content)
    assert f"{key}: unknown key; did you mean {suggestion}?" in text


def test_a_misspelt_parameter_is_named_with_the_nearest_right_one() -> None:
    text = refusal({"routing": {"domains": {"d": {"all": [{"parameter": "Manufacturrer", "equals": "GE"}]}}}})
    assert "unknown parameter 'Manufacturrer'; did you mean 'Manufacturer'?" in text


@pytest.mark.parametrize(
    "condition",
    [
        {"parameter": "EchoTime"},
        {"parameter": "EchoTime", "equals": 2.0, "between": [1, 2]},
        {"parameter": "EchoTime", "near": 2.0},
        {"parameter": "EchoTime", "between": [3, 2]},
        {"parameter": "Manufacturer", "between": [1, 2]},
        {"parameter": "Manufacturer", "equals": True},  # `equals: yes` in YAML
        {"parameter": "Manufacturer", "one_of": ["GE", False]},
        {"parameter": "EchoTime", "matches": "2"},
        {"parameter": "EchoTime", "missing": False},
        {"header": "Manufacturer", "near": 1, "within": 1},
        {"series": "Modality", "matches": "("},
    ],
)
def test_a_condition_that_cannot_be_meant_is_refused(condition: dict[str, Any]) -> None:
    assert "routing.domains.d.all.0" in refusal({"routing": {"domains": {"d": {"all": [condition]}}}})


def test_a_downstream_model_must_name_a_domain_and_destinations_that_exist() -> None:
    domain = {"all": [{"parameter": "Manufacturer", "equals": "SIEMENS"}]}
    routing = {"domains": {"siemens": domain}, "downstream_models": {"m": {"domain": "simens", "destinations": ["a"]}}}
    assert "did you mean 'siemens'?" in refusal({"routing": routing})
    routing["downstream_models"]["m"]["domain"] = "siemens"
    assert "'a' is not defined" in refusal({"routing": routing})


def rule(when: dict[str, Any], **effect: Any) -> dict[str, Any]:
    return {"rules": {"r": {"when": when, **(effect or {"stop": True})}}}


@pytest.mark.parametrize(
    ("routing", "expected"),
    [
        (rule({"domain": "simens"}), "rules.r.when: 'simens' is not defined; did you mean 'siemens'?"),
        (rule({"header": "EchoTrainLengt", "missing": True}), "does not keep an element 'EchoTrainLengt'; did you"),
        (rule({"header": "SeriesDescription", "matches": "x"}), "write series: SeriesDescription"),
        (rule({"header": "EchoTrainLength", "matches": "x"}), "EchoTrainLength is a number: use equals"),
        (rule({"series": "Modalty", "equals": "MR"}), "did you mean 'Modality'?"),
        (rule({"finding": "any", "severity": "eror"}), "did you mean 'error'?"),
        (rule({"finding": "any", "element": "EchoTim"}), "did you mean 'EchoTime'?"),
        (rule({"all": [{"headr": "EchoTime"}]}), "when.all.0.headr: unknown key; did you mean 'header'?"),
        (rule({"not": {"finding": "any", "sevrity": "error"}}), "did you mean 'severity'?"),
        (rule({"finding": "any"}, hld="x", stop=True), "r.hld: unknown key; did you mean 'hold'?"),
        (rule({"finding": "any"}, priority=1), "sends to destinations, holds or stops"),
        (rule({"finding": "any"}, destinations=["b"]), "'b' is not defined"),
        ({"rules": {"m": {"when": {"finding": "any"}, "stop": True}}}, "rules.m: a downstream model has this name"),
        ({"domains": {"siemens": {"all": [{"finding": "any"}], "any": [{"finding": "any"}]}}}, "exactly one of all"),
        ({"domains": {"siemens": {"all": [{"domain": "siemens"}]}}}, "combine domains in a rule"),
    ],
)
def test_a_wrong_name_in_a_rule_is_named_with_the_nearest_right_one(routing: dict[str, Any], expected: str) -> None:
    domain = {"all": [{"parameter": "Manufacturer", "equals": "SIEMENS"}]}
    whole = {
        "domains": {"siemens": domain},
        "downstream_models": {"m": {"domain": "siemens", "destinations": ["a"]}},
    }
    destinations = {"a": {"ae_title": "A", "host": "h", "port": 104}}
    text = refusal({"routing": whole | routing, "destinations": destinations})
    assert expected in text
    assert len(text.splitlines()) == 2, "one problem, one line"


def test_the_listener_opens_to_other_machines_only_for_named_senders() -> None:
    text = refusal({"listener": {"addresses": ["10.1.0.0/16"]}})
    assert "10.1.0.0/16" in text and "calling_ae_titles" in text
    opened = parse_config({"listener": {"addresses": ["10.1.0.0/16"], "calling_ae_titles": ["MR1"]}}, BASE)
    assert opened.listener.calling_ae_titles == ("MR1",)


def test_the_default_listens_on_loopback_only() -> None:
    assert NodeConfig().listener.bind == "127.0.0.1"


def test_half_a_tls_identity_is_refused() -> None:
    assert "both certificate and private_key" in refusal({"listener": {"tls": {"certificate": "node.pem"}}})


def test_relative_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("data_dir: data\ninference: {model: packages/site}\n")
    config = load_config(path)
    assert config.data_dir == tmp_path / "data"
    assert config.inference.model == str(tmp_path / "packages/site")
    assert config.database_url == f"sqlite:///{tmp_path / 'data' / 'node.sqlite'}"


@pytest.mark.parametrize("text", ["listener: [", "- a\n- b\n", "listener: 5\n"])
def test_a_file_that_is_not_a_configuration_is_refused_with_its_name_or_key(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError):
        load_config(path)


def test_an_absent_file_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--config"):
        load_config(tmp_path / "none.yaml")


def test_the_configuration_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        NodeConfig().listener.port = 104  # type: ignore[misc]
