"""Room that is written ahead: as much as is wanted, and never the disk's reserve."""

from __future__ import annotations

import os
from pathlib import Path

from iap_node.spool import Spool
from iap_node.spool.segments import SEGMENT_BYTES


def prepared(spool: Spool) -> list[Path]:
    spool.start_preparing()
    spool.wait_until_prepared()
    return list(spool.segments())


def test_as_many_segments_are_prepared_as_are_wanted(tmp_path: Path) -> None:
    spool = Spool(tmp_path, prepared_bytes=SEGMENT_BYTES)
    (segment,) = prepared(spool)
    assert segment.stat().st_blocks * 512 >= SEGMENT_BYTES
    spool.close()


def test_preparing_leaves_the_reserve_of_the_disk_alone(tmp_path: Path) -> None:
    found = os.statvfs(tmp_path)
    spool = Spool(tmp_path, prepared_bytes=SEGMENT_BYTES, reserve_bytes=found.f_blocks * found.f_frsize)
    assert prepared(spool) == []
    spool.close()
