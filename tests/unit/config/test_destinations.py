"""Destinations by kind: which keys belong to which, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from iap_node.config import DestinationConfig, parse_config
from iap_node.config.destinations import DicomwebConfig, FolderConfig
from iap_node.errors import ConfigError


def parsed(tmp_path: Path, **content: Any) -> Any:
    return parse_config({"destinations": {"there": content}}, tmp_path).destinations["there"]


def test_without_a_kind_it_is_a_dicom_destination(tmp_path: Path) -> None:
    assert type(parsed(tmp_path, ae_title="X", host="h", port=104)) is DestinationConfig


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    folder = parsed(tmp_path, kind="folder", path="out")
    assert type(folder) is FolderConfig and folder.path == tmp_path / "out"
    web = parsed(tmp_path, kind="dicomweb", url="https://pacs/dicom-web", token_file="token")
    assert type(web) is DicomwebConfig and web.token_file == tmp_path / "token"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({"kind": "foldr", "path": "x"}, "destinations.there.kind: kind is none of .*; did you mean 'folder'"),
        ({"kind": "folder", "paht": "x"}, "destinations.there.paht: unknown key; did you mean 'path'"),
        ({"kind": "folder", "path": "x", "template": "{SOPInstanceUd}"}, "did you mean 'SOPInstanceUID'"),
        ({"kind": "webhook", "url": "http://other/", "secret_file": "s"}, "begins with https"),
        ({"kind": "dicomweb", "url": "https://me:secret@pacs/"}, "no password in a URL"),
        ({"kind": "dicomweb", "url": "https://pacs/", "certificate": "c"}, "name both certificate and private_key"),
        ({"ae_title": "X", "host": "h", "port": 104, "path": "x"}, "destinations.there.path: unknown key"),
        ({"kind": "folder", "path": "x", "retain": ["full_dates"]}, "set send: deidentified, or leave it out"),
        ({"kind": "folder", "path": "x", "send": "deidentified", "retain": ["uids"]}, "destinations.there.retain"),
        (
            {"kind": "folder", "path": "x", "send": "deidentified", "retain": ["full_dates", "modified_dates"]},
            "either full_dates or modified_dates",
        ),
        ({"kind": "folder", "path": "x", "send": "deidentified", "results": True}, "an SR document quotes headers"),
        ({"ae_title": "X", "host": "h", "port": 104, "transcode": "always"}, "destinations.there.transcode"),
    ],
)
def test_what_is_wrong_is_named_with_its_key(tmp_path: Path, content: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        parsed(tmp_path, **content)


def test_what_people_are_shown_holds_no_secret_of_the_url(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("s")
    webhook = parsed(tmp_path, kind="webhook", url="https://hooks/x?key=secret", secret_file="s")
    assert webhook.address == "https://hooks/x"
