"""Queries between rows and files: which file stands for which bytes, and which files no row names. For the
listener."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import select, union_all
from sqlalchemy.orm import Session

from iap_node.database.tables import ConflictRow, InstanceRow


def path_of_reception(session: Session, sop_instance_uid: str, checksum: str) -> str | None:
    """The spool path of the row, of an instance or of a conflict, that stands for these bytes of an instance.

    None where no row does.
    """
    instance = select(InstanceRow.spool_path).where(
        InstanceRow.sop_instance_uid == sop_instance_uid, InstanceRow.checksum == checksum
    )
    conflict = (
        select(ConflictRow.spool_path)
        .join(InstanceRow, InstanceRow.id == ConflictRow.instance_id)
        .where(InstanceRow.sop_instance_uid == sop_instance_uid, ConflictRow.checksum == checksum)
    )
    return session.scalars(union_all(instance, conflict)).first()


def paths_without_row(session: Session, spool_paths: Collection[str]) -> list[str]:
    """Those of `spool_paths` that neither an instance nor a conflict names, in the order given.

    For some hundreds of paths at once: each is a bound parameter.
    """
    named = set(
        session.scalars(select(InstanceRow.spool_path).where(InstanceRow.spool_path.in_(spool_paths)))
    )
    named.update(
        session.scalars(select(ConflictRow.spool_path).where(ConflictRow.spool_path.in_(spool_paths)))
    )
    return [path for path in spool_paths if path not in named]
