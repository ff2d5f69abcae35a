"""A folder as a destination: files that are there whole, once, and as they came."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pydicom
import pytest

from iap_node.config.destinations import FolderConfig
from iap_node.errors import DeliveryError
from iap_node.routing.destinations import folder as module
from iap_node.routing.destinations.folder import FolderDestination
from iap_node.routing.destinations.outgoing import OutgoingInstance


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "target"
    path.mkdir()
    return path


@pytest.fixture
def destination(target: Path) -> FolderDestination:
    return FolderDestination(FolderConfig(kind="folder", path=target))


def files(target: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(target)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in target.rglob("*")
        if path.is_file()
    }


def test_instances_are_written_as_they_are_with_an_empty_preamble_and_a_second_time_changes_nothing(
    destination: FolderDestination, target: Path, write_instance: Callable[..., OutgoingInstance]
) -> None:
    series = [write_instance() for _ in range(2)]
    marked = series[0].file
    assert isinstance(marked, Path)
    marked.write_bytes(b"of the spool".ljust(128, b"!") + marked.read_bytes()[128:])
    assert [one.accepted for one in destination.send(series)] == [True, True]
    written = files(target)
    assert set(written) == {f"1.2.3/1.2.3.4/{one.sop_instance_uid}.dcm" for one in series}
    content = written[f"1.2.3/1.2.3.4/{series[0].sop_instance_uid}.dcm"][1]
    assert content == bytes(128) + marked.read_bytes()[128:]
    assert pydicom.dcmread(next(target.rglob("*.dcm"))).Modality == "MR"
    again = destination.send(series)
    assert [(one.accepted, one.comment) for one in again] == [(True, "was there already")] * 2
    assert files(target) == written


def test_another_file_of_the_name_and_a_link_are_left_alone(
    destination: FolderDestination, target: Path, tmp_path: Path, write_instance: Callable[..., OutgoingInstance]
) -> None:
    series = [write_instance(), write_instance()]
    there = target / "1.2.3" / "1.2.3.4"
    there.mkdir(parents=True)
    (there / f"{series[0].sop_instance_uid}.dcm").write_bytes(b"somebody else's")
    (there / f"{series[1].sop_instance_uid}.dcm").symlink_to(tmp_path / "elsewhere")
    answers = destination.send(series)
    assert [(one.accepted, one.permanent) for one in answers] == [(False, True)] * 2
    assert (there / f"{series[0].sop_instance_uid}.dcm").read_bytes() == b"somebody else's"
    assert not (tmp_path / "elsewhere").exists()


def test_what_a_killed_worker_left_is_taken_over(
    destination: FolderDestination, target: Path, write_instance: Callable[..., OutgoingInstance]
) -> None:
    one = write_instance()
    there = target / "1.2.3" / "1.2.3.4"
    there.mkdir(parents=True)
    (there / f".{one.sop_instance_uid}.dcm.part").write_bytes(b"x" * 100_000)
    assert destination.send([one])[0].accepted
    assert [path.name for path in there.iterdir()] == [f"{one.sop_instance_uid}.dcm"]


def test_a_full_disk_leaves_no_half_files_and_the_series_waits(
    destination: FolderDestination,
    target: Path,
    write_instance: Callable[..., OutgoingInstance],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module.os, "fsync", full)
    (target / "1.2.3" / "1.2.3.4").mkdir(parents=True)
    answers = destination.send([write_instance(), write_instance()])
    assert [(one.accepted, one.permanent) for one in answers] == [(False, False)] * 2
    assert "disk is full" in answers[1].comment
    assert files(target) == {}


def test_an_instance_without_its_spool_file_does_not_keep_the_others_back(
    destination: FolderDestination, write_instance: Callable[..., OutgoingInstance]
) -> None:
    gone, here = write_instance(), write_instance()
    assert isinstance(gone.file, Path)
    gone.file.unlink()
    other = replace(write_instance(), sop_instance_uid="1.2.3.4.99")
    answers = destination.send([gone, other, here])
    assert [(one.accepted, one.permanent) for one in answers] == [(False, True), (False, True), (True, False)]
    assert [one.instance_id for one in answers] == [one.instance_id for one in (gone, other, here)]


def test_a_folder_that_is_not_there_is_not_made(
    tmp_path: Path, write_instance: Callable[..., OutgoingInstance]
) -> None:
    destination = FolderDestination(FolderConfig(kind="folder", path=tmp_path / "unmounted"))
    with pytest.raises(DeliveryError, match="mount its disk"):
        destination.send([write_instance()])
    with pytest.raises(DeliveryError, match="mount its disk"):
        destination.echo()
    assert not (tmp_path / "unmounted").exists()


def test_echo_leaves_nothing_behind(destination: FolderDestination, target: Path) -> None:
    destination.echo()
    assert list(target.iterdir()) == []
