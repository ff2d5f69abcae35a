"""The archive against the ledger: what was acknowledged is there, and what is there was sent, to the bit.

Reads through the tables and the spool only, so that it does not depend on how the spool lies on the disk.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from iap_node.database.engine import Database
from iap_node.database.tables import ConflictRow, InstanceRow, JobRow, QuarantineRow, SeriesRow
from iap_node.listener.intake import Intake
from iap_node.listener.patients import load_or_create_patient_key
from iap_node.listener.recovery import recover
from iap_node.records import JobKind, SeriesState
from iap_node.spool import Spool
from tests.acceptance.drill.driver import Ledger, content_digest
from tests.integration.listener.conftest import split_part10


def recover_and_compare(data_dir: Path, database_url: str, ledger: Ledger) -> list[str]:
    """Do what a listener does when it starts, and say what is wrong then; nothing, if all is well.

    What was acknowledged must be there after an ordinary start. What was left of stores that were not acknowledged
    must be in order after a start that takes nothing for another process at work.
    """
    database = Database(database_url)
    spool = Spool(data_dir / "spool")
    try:
        _start(data_dir, database)
        faults = compare(spool, database, ledger)
        if faults:
            return faults
        spool.note_looked_through(0.0)  # or it would look at nothing: no time has passed
        _start(data_dir, database, settled_after_s=0.0)
        return compare(spool, database, ledger) + leftovers(spool, database)
    except Exception as error:  # noqa: BLE001 - an edge: a start that fails is the finding
        return [f"the start after it fails: {error!r}"]
    finally:
        database.dispose()


def _start(data_dir: Path, database: Database, **options: float) -> None:
    spool = Spool(data_dir / "spool")
    with closing(Intake(spool, database, load_or_create_patient_key(data_dir / "patient.key"))) as intake:
        recover(spool, database, intake, **options)


def compare(spool: Spool, database: Database, ledger: Ledger) -> list[str]:
    """Rows and bytes against the ledger."""
    faults = list(ledger.faults)
    with database.reading() as session:
        if database.is_sqlite and (said := session.scalars(text("PRAGMA integrity_check")).all()) != ["ok"]:
            faults.append(f"SQLite: {said[:3]}")
        standing = session.execute(select(InstanceRow.sop_instance_uid, InstanceRow.spool_path, InstanceRow.size_bytes))
        conflicting = session.execute(
            select(InstanceRow.sop_instance_uid, ConflictRow.spool_path, ConflictRow.size_bytes).join(
                InstanceRow, InstanceRow.id == ConflictRow.instance_id
            )
        )
        rows = [(True, *row) for row in standing] + [(False, *row) for row in conflicting]
        faults += _faults_of_jobs(session)
        n_quarantined = session.scalar(select(func.count()).select_from(QuarantineRow))
    if n_quarantined:
        faults.append(f"{n_quarantined} instances are in the quarantine")
    found: Counter[tuple[str, str]] = Counter()
    for stands, uid, spool_path, size_bytes in rows:
        try:
            content = read_whole(spool, spool_path)
            _, dataset = split_part10(content)
        except Exception as error:  # noqa: BLE001 - an edge: whatever is wrong with a file is the finding
            faults.append(f"{uid}: its row names {spool_path}, which cannot be read: {error!r}")
            continue
        digest = content_digest(dataset)
        found[uid, digest] += 1
        if len(content) != size_bytes:
            faults.append(f"{uid}: its row says {size_bytes} bytes, {spool_path} has {len(content)}")
        if digest not in ledger.sent.get(uid, ()):
            faults.append(f"{uid}: nobody sent what lies in {spool_path}")
        if stands and (uid, digest) in ledger.cannot_stand:
            faults.append(f"{uid}: bytes stand that came after others had been acknowledged")
    faults += [f"{uid}: the same bytes have {n} rows" for (uid, _), n in found.items() if n > 1]
    lost = [uid for uid, digests in ledger.acknowledged.items() for digest in digests if (uid, digest) not in found]
    return faults + [f"{uid}: acknowledged and lost" for uid in lost]


def leftovers(spool: Spool, database: Database) -> list[str]:
    """What lies in the spool without a row. A segment in which nothing lies is no fault: `iap-node fsck` removes it."""
    with database.reading() as session:
        named = set(session.scalars(select(InstanceRow.spool_path)))
        named.update(session.scalars(select(ConflictRow.spool_path)))
    found = [file.spool_path for file in spool.instances()]
    for segment in spool.segments():
        found += [spool_path for spool_path, _ in spool.records(segment, verify=False)]
    faults = [f"{spool_path} has no row" for spool_path in found if spool_path not in named]
    return faults + [f"{path.name} is left over" for path in spool.root.glob("incoming/*")]


def read_whole(spool: Spool, spool_path: str) -> bytes:
    """The bytes of the file that a row names."""
    with spool.locate(spool_path).open("rb") as stream:
        return stream.read()


def _faults_of_jobs(session: Session) -> Iterator[str]:
    infer = select(JobRow.series_id, JobRow.revision).where(JobRow.kind == JobKind.INFER)
    n_jobs = Counter((series_id, revision) for series_id, revision in session.execute(infer))
    series = session.execute(select(SeriesRow.id, SeriesRow.revision, SeriesRow.state)).all()
    newest = {row.id: row.revision for row in series}
    for (series_id, revision), n in n_jobs.items():
        if n > 1 or revision > newest.get(series_id, 0):
            yield f"series {series_id}: {n} INFER jobs of revision {revision}, it is at {newest.get(series_id)}"
    for row in series:
        if row.state is not SeriesState.RECEIVING and not n_jobs[row.id, row.revision]:
            yield f"series {row.id}: revision {row.revision} is {row.state} and has no INFER job"
