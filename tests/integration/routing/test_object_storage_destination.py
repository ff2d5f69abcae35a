"""Object storage as a destination, by fsspec's file system for the local disk, which commits as those of buckets do."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from iap_node.config.destinations import ObjectStorageConfig
from iap_node.errors import ConfigError, DeliveryError
from iap_node.routing.destinations.objects import ObjectStorageDestination
from iap_node.routing.destinations.outgoing import OutgoingInstance

pytest.importorskip("fsspec", reason="the extra object-storage is not installed")


def destination(root: Path, **changes: Any) -> ObjectStorageDestination:
    config = ObjectStorageConfig.model_validate({"kind": "object-storage", "url": "s3://bucket/prefix"} | changes)
    return ObjectStorageDestination(config.model_copy(update={"url": f"file://{root}"}))


def objects(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_objects_are_written_once_and_others_are_left(
    tmp_path: Path, write_instance: Callable[..., OutgoingInstance]
) -> None:
    root = tmp_path / "bucket"
    series = [write_instance(), write_instance()]
    assert all(one.accepted for one in destination(root).send(series))
    written = objects(root)
    assert set(written) == {f"1.2.3/1.2.3.4/{one.sop_instance_uid}.dcm" for one in series}
    assert sorted(written.values()) == sorted(Path(str(one.file)).read_bytes() for one in series)
    assert [one.comment for one in destination(root).send(series)] == ["was there already"] * 2
    (root / "1.2.3" / "1.2.3.4" / f"{series[0].sop_instance_uid}.dcm").write_bytes(b"other")
    assert [(one.accepted, one.permanent) for one in destination(root).send(series)] == [(False, True), (True, False)]


class Breaks:
    """A stream that fails in the middle of an instance."""

    def __init__(self, path: Path) -> None:
        self.path, self.opened = path, 0

    def open(self, mode: Any) -> Any:
        self.opened += 1
        if self.opened == 1:
            return self.path.open(mode)
        return BrokenStream(self.path.read_bytes())


class BrokenStream:
    def __init__(self, content: bytes) -> None:
        self.pieces: Iterator[bytes] = iter((content[:132], content[132:400]))

    def read(self, _: int = -1) -> bytes:
        for piece in self.pieces:
            return piece
        raise OSError(errno.EIO, "Input/output error")

    def __enter__(self) -> BrokenStream:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def test_an_upload_that_breaks_off_leaves_no_object(
    tmp_path: Path, write_instance: Callable[..., OutgoingInstance]
) -> None:
    one = write_instance()
    broken = OutgoingInstance(
        one.instance_id, one.sop_class_uid, one.sop_instance_uid, one.transfer_syntax_uid,
        Breaks(Path(str(one.file))),
    )  # fmt: skip
    (answer,) = destination(tmp_path / "bucket").send([broken])
    assert (answer.accepted, answer.permanent) == (False, False) and "spool file" in answer.comment
    assert objects(tmp_path / "bucket") == {}


def test_a_storage_that_refuses_is_tried_again(tmp_path: Path, write_instance: Callable[..., OutgoingInstance]) -> None:
    (tmp_path / "bucket").write_bytes(b"a file where the bucket should be")
    told = destination(tmp_path / "bucket").send([write_instance(), write_instance()])
    assert [(one.accepted, one.permanent) for one in told] == [(False, False)] * 2


def test_echo_asks_for_the_bucket(tmp_path: Path) -> None:
    destination(tmp_path).echo()
    with pytest.raises(DeliveryError, match="check bucket"):
        destination(tmp_path / "absent").echo()


def test_options_come_from_a_file_of_their_own(tmp_path: Path) -> None:
    options = tmp_path / "options"
    options.write_text(json.dumps({"auto_mkdir": False}))
    options.chmod(0o600)
    destination(tmp_path, options_file=options).echo()
    options.write_text("[]")
    with pytest.raises(ConfigError, match="no JSON object"):
        destination(tmp_path, options_file=options).echo()
