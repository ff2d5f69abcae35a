"""`iap-node export`: what was received comes out again as files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest

from iap_node.spool import Spool
from tests.acceptance.conftest import RunningNode
from tests.integration.listener.conftest import make_instance

SERIES = "1.2.840.99.1.1"


@pytest.fixture
def sent(tmp_path: Path) -> dict[str, bytes]:
    """Files of one series by SOP Instance UID, one of them large."""
    folder = tmp_path / "sent"
    folder.mkdir()
    files = {}
    for number, size in enumerate((4, 4, 2048), 1):
        ds = make_instance(InstanceNumber=number, Rows=size, Columns=size, PixelData=bytes(2 * size * size))
        ds.save_as(folder / f"{number}.dcm", enforce_file_format=True)
        files[ds.SOPInstanceUID] = (folder / f"{number}.dcm").read_bytes()
    return files


def test_exported_instances_are_the_data_sets_that_came(
    make_node: Callable[..., RunningNode], sent: dict[str, bytes], tmp_path: Path
) -> None:
    node = make_node()
    assert node.command("init").returncode == 0
    assert node.command("import", str(tmp_path / "sent")).returncode == 0
    exported = tmp_path / "exported"
    assert node.command("export", SERIES, str(exported)).returncode == 0
    assert {path.stem for path in exported.iterdir()} == set(sent)
    for path in exported.iterdir():
        content = path.read_bytes()
        assert content[:132] == bytes(128) + b"DICM"
        ds, original = pydicom.dcmread(path), sent[path.stem]
        assert ds.SOPInstanceUID == path.stem
        assert content[144 + int.from_bytes(content[140:144], "little") :] == (
            original[144 + int.from_bytes(original[140:144], "little") :]
        )


def test_nothing_is_overwritten_and_lost_bytes_are_told(
    make_node: Callable[..., RunningNode], sent: dict[str, bytes], tmp_path: Path
) -> None:
    node = make_node()
    assert node.command("init").returncode == 0
    assert node.command("import", str(tmp_path / "sent")).returncode == 0
    assert node.command("export", SERIES, str(tmp_path / "out")).returncode == 0
    refused = node.command("export", SERIES, str(tmp_path / "out"))
    assert refused.returncode == 1 and "File exists" in refused.stderr
    assert node.command("export", "9.9.9", str(tmp_path / "other")).returncode == 4
    spool = Spool(node.config.spool_dir)
    first = next(name for segment in spool.segments() for name, _ in spool.records(segment))
    spool.remove(first)
    partly = node.command("export", SERIES, str(tmp_path / "rest"))
    assert partly.returncode == 1 and "1 instances are gone" in partly.stderr
    assert len(list((tmp_path / "rest").iterdir())) == 2
