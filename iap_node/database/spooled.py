"""Queries between rows and bytes: which bytes in the spool no row names. For the listener's recovery."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import select
from sqlalchemy.orm import Session

from iap_node.database.tables import ConflictRow, InstanceRow


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
