"""The note of the listener's port: there while it serves, and never believed when its process is gone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from iap_node.listener.address import FILE_NAME, noted_port, read_port


def test_the_port_is_noted_while_the_listener_serves(tmp_path: Path) -> None:
    assert read_port(tmp_path) is None
    with noted_port(tmp_path, 11112):
        assert read_port(tmp_path) == 11112
    assert read_port(tmp_path) is None


def test_the_note_goes_when_the_listener_fails(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), noted_port(tmp_path, 11112):
        raise RuntimeError
    assert read_port(tmp_path) is None


def test_the_note_of_a_killed_listener_is_not_believed(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", "pass"])
    ended.wait()
    (tmp_path / FILE_NAME).write_text(json.dumps({"port": 11112, "pid": ended.pid}))
    assert read_port(tmp_path) is None


@pytest.mark.parametrize("left", ["", "{", "\0\0\0\0", "[]", '{"port": 11112}'])
def test_what_a_power_cut_left_of_the_note_is_none(tmp_path: Path, left: str) -> None:
    (tmp_path / FILE_NAME).write_text(left)
    assert read_port(tmp_path) is None
