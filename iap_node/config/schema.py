"""The JSON Schema of config.yaml, made from the sections, so that editors complete and check the file.

It is published as `docs/config.schema.json`, which `config.yaml` names in its first line; `iap-node config-schema`
writes it, and a test says whether the published one is current. References between names (a domain, a destination)
are beyond a schema: `iap-node check-config` checks those.
"""

from __future__ import annotations

import json
from typing import Any

from iap_node.config import NodeConfig

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def config_schema() -> dict[str, Any]:
    """The schema as JSON values."""
    schema = NodeConfig.model_json_schema(by_alias=True, mode="validation")
    return {"$schema": DIALECT, **schema, "title": "Configuration of the IAP node"}


def config_schema_text() -> str:
    """The schema as it is published."""
    return json.dumps(config_schema(), indent=1, ensure_ascii=False) + "\n"
