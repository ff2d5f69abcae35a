"""A node that has been at work for years: ten million archive rows, a million instance files, segments by the thousand.

Rows go straight into SQLite, since sending them would take a day. What is asked of the archive and the spool when an
instance comes is the same as if they had been sent: UIDs are random, the rows of a series lie together, a tenth of the
rows name small files that are there, the others name places in segments, which are there as sparse files.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.benchmarks.ingest.receivers import Kind, free_port, running

VERSION = 1
FIRST_START_S = 1800.0  # it looks through all files; later ones do not
PER_SERIES = 100
SERIES_PER_STUDY = 5
SEGMENT_BYTES = 64 * 1024**2
RECORD_BYTES = 229_376  # an instance of 320 x 320, up to the next multiple of 4096
FILE_BYTES = 1024
LONG_AGO = 1_700_000_000  # seconds since the epoch
WHEN = "2026-01-01 00:00:00.000000"
TAGS = 9000  # 1 to 999 are taken by other runs; sender.c knows four digits


@dataclass(frozen=True, kw_only=True)
class Fill:
    """How full."""

    rows: int = 10_000_000
    files: int = 1_000_000


def build(kind: Kind, folder: Path, fill: Fill, say: Callable[[str], None]) -> None:
    """Make the node's folder, unless an equal one is there."""
    made = folder / "made.json"
    fresh = folder.with_name("prefilled-tables")
    shutil.rmtree(fresh, ignore_errors=True)
    kind.prepare(fresh, free_port())
    with closing(sqlite3.connect(fresh / "data" / "node.sqlite")) as tables:
        form = "\n".join(sql or "" for (sql,) in tables.execute("SELECT sql FROM sqlite_master ORDER BY name"))
    wanted = {"version": VERSION, "tables": hashlib.sha256(form.encode()).hexdigest(), **asdict(fill)}
    if made.is_file() and json.loads(made.read_text()) == wanted:
        shutil.rmtree(fresh)
        return
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)
    say(f"filling an archive with {fill.rows:,} rows")
    _fill_tables(folder / "data" / "node.sqlite", fill, say)
    say(f"filling a spool with {fill.files:,} files")
    _fill_spool(folder / "data" / "spool", fill)
    with running(kind, folder, start_s=FIRST_START_S) as receiver:
        say(f"the first start on it took {receiver.start_s:.0f} s")
    made.write_text(json.dumps(wanted))


def new_tag(folder: Path) -> int:
    """A tag whose instances this archive has not seen; it keeps what it gets."""
    path = folder / "tags"
    used = int(path.read_text()) if path.is_file() else 0
    if used >= TAGS:
        raise RuntimeError(f"every tag is used up: remove {folder}")
    path.write_text(str(used + 1))
    return 1000 + used


def _uid(source: random.Random) -> str:
    return f"2.25.{10**33 + source.getrandbits(109)}"


def _places(fill: Fill) -> Iterator[tuple[int, str, str, str]]:
    """Number of the series (from 1), its UID, SOP Instance UID and spool path of every row."""
    source = random.Random(1)
    per_segment = SEGMENT_BYTES // RECORD_BYTES
    series_instance_uid, segment = "", ""
    for number in range(fill.rows):
        if number % PER_SERIES == 0:
            series_instance_uid = _uid(source)
            shard = hashlib.sha256(series_instance_uid.encode()).hexdigest()[:2]
        sop_instance_uid = _uid(source)
        if number < fill.files:
            path = f"series/{shard}/{series_instance_uid}/{sop_instance_uid}.{source.getrandbits(32):08x}.dcm"
        else:
            place = (number - fill.files) % per_segment
            if place == 0:
                segment = f"{source.getrandbits(64):016x}"
            path = f"segments/{segment[:2]}/{segment}.seg#{place * RECORD_BYTES}+{RECORD_BYTES - 4000}"
        yield number // PER_SERIES + 1, series_instance_uid, sop_instance_uid, path


def _fill_tables(path: Path, fill: Fill, say: Callable[[str], None]) -> None:
    n_series = -(-fill.rows // PER_SERIES)
    n_studies = -(-n_series // SERIES_PER_STUDY)
    source = random.Random(2)
    with closing(sqlite3.connect(path, isolation_level=None)) as tables:
        for pragma in ("foreign_keys = OFF", "journal_mode = OFF", "synchronous = OFF", "cache_size = -6000000"):
            tables.execute(f"PRAGMA {pragma}")
        indexes = tables.execute("SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql NOT NULL").fetchall()
        for name, _ in indexes:
            tables.execute(f"DROP INDEX {name}")
        tables.execute("BEGIN")
        _insert(tables, "patient", ({"id": n, "patient_hash": f"{n:064x}"} for n in range(1, n_studies + 1)))
        _insert(
            tables,
            "study",
            (
                {"id": n, "patient_id": n, "study_instance_uid": _uid(source), "study_date": "20260101"}
                for n in range(1, n_studies + 1)
            ),
        )
        _insert(tables, "series", _series(fill))
        _insert(tables, "instance", _instances(fill, say))
        for _, sql in indexes:
            tables.execute(sql)
        tables.execute("COMMIT")
        tables.execute("PRAGMA journal_mode = WAL")


def _series(fill: Fill) -> Iterator[dict[str, object]]:
    last = 0
    for number, series_instance_uid, _, _ in _places(fill):
        if number != last:
            last = number
            yield {
                "id": number,
                "study_id": (number - 1) // SERIES_PER_STUDY + 1,
                "series_instance_uid": series_instance_uid,
                "modality": "MR",
                "series_description": "SIMULATED",
                "manufacturer": "SIMULATED",
                "revision": 1,
                "judged_revision": 1,
                "state": "judged",
                "completed_at": WHEN,
            }


def _instances(fill: Fill, say: Callable[[str], None]) -> Iterator[dict[str, object]]:
    source = random.Random(3)
    for number, (series_id, _, sop_instance_uid, path) in enumerate(_places(fill)):
        if number and number % 1_000_000 == 0:
            say(f"  {number:,} rows")
        digest = f"{source.getrandbits(128):032x}"
        yield {
            "id": number + 1,
            "series_id": series_id,
            "revision": 1,
            "sop_instance_uid": sop_instance_uid,
            "sop_class_uid": "1.2.840.10008.5.1.4.1.1.4",
            "transfer_syntax_uid": "1.2.840.10008.1.2.1",
            "spool_path": path,
            "checksum": digest,
            "sha256": 2 * digest,
            "size_bytes": FILE_BYTES if number < fill.files else RECORD_BYTES - 4000,
            "instance_number": number % PER_SERIES + 1,
            "rows": 320,
            "columns": 320,
            "image_type": "ORIGINAL\\PRIMARY\\OTHER",
            "calling_ae_title": "BENCH",
            "source_address": "127.0.0.1",
            "bytes_state": "present",
        }


def _insert(tables: sqlite3.Connection, table: str, rows: Iterator[dict[str, object]]) -> None:
    """Rows with these values; other columns that must have one get an empty one of their type."""
    columns = tables.execute(f"PRAGMA table_info({table})").fetchall()
    empty: dict[str, object] = {}
    for _, name, kind, not_null, default, _ in columns:
        if kind.startswith("DATETIME"):
            empty[name] = WHEN if not_null else None
        elif default is not None:
            empty[name] = default.strip("'")
        elif not_null:
            empty[name] = "" if kind.startswith(("TEXT", "VARCHAR")) else 0
        else:
            empty[name] = None
    names = list(empty)
    statement = f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"
    tables.executemany(statement, ([{**empty, **row}[name] for name in names] for row in rows))


def _fill_spool(spool: Path, fill: Fill) -> None:
    content = bytes(FILE_BYTES)
    folders: set[Path] = set()
    for number, (_, _, _, spool_path) in enumerate(_places(fill)):
        path = spool / spool_path.partition("#")[0]
        if path.parent not in folders:
            path.parent.mkdir(parents=True, exist_ok=True)
            folders.add(path.parent)
        if number < fill.files:
            path.write_bytes(content)
        elif spool_path.partition("#")[2].startswith("0+"):
            with path.open("wb") as stream:
                stream.truncate(SEGMENT_BYTES)
    for series in folders:  # what changed in the last hour is looked through at every start
        os.utime(series, (LONG_AGO, LONG_AGO))
