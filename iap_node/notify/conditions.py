"""What is wrong now, kind by kind, read from the archive and the disk. Called by `watch`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Protocol

from iap_node.config import NodeConfig
from iap_node.config.notifications import TroubleKind
from iap_node.database.alarms import WHOLE_HEADER, alarm_rates
from iap_node.database.engine import Database
from iap_node.database.jobs import list_jobs
from iap_node.database.notifications import count_quarantined_since, failing_deliveries, held_since_before
from iap_node.database.status import status_counts
from iap_node.notify.message import Trouble
from iap_node.records import JobState

UIDS_NAMED = 5
QUARANTINE_PERIOD = timedelta(days=1)
LOW, USED_UP = 1, 2  # of a disk: the second is news to who knows of the first


class Room(Protocol):
    """Room on the spool's disk; `iap_node.upkeep.capacity.Capacity` is one."""

    @property
    def free_bytes(self) -> int:
        """Free on the disk."""

    @property
    def reserve_bytes(self) -> int:
        """Below it stores are refused."""

    @property
    def full_in_days(self) -> float | None:
        """None: it is not filling."""


LookAtRoom = Callable[[datetime], Room]
Look = Callable[[datetime], Trouble | None]


def looks(config: NodeConfig, database: Database, room: LookAtRoom) -> dict[TroubleKind, Look]:
    """How to find out about each kind: a function of the time that returns what is wrong, or None.

    They raise DatabaseUnavailable, and OSError where the spool's disk cannot be asked.
    """
    told = config.notifications

    def dead_letters(now: datetime) -> Trouble | None:
        with database.reading() as session:
            dead = {
                kind.value: n
                for (kind, state), n in status_counts(session).jobs.items()
                if state is JobState.DEAD and n
            }
            jobs = list_jobs(session, [JobState.DEAD], UIDS_NAMED) if dead else []
        if not dead:
            return None
        parts = ", ".join(f"{n} {kind}" for kind, n in dead.items())
        return Trouble(
            TroubleKind.DEAD_LETTERS,
            dead,
            f"jobs that failed for good: {parts}",
            "`iap-node jobs` says why; `iap-node retry` puts them back",
            tuple(dict.fromkeys(job.series_instance_uid for job in jobs)),
        )

    def destination_failing(now: datetime) -> Trouble | None:
        with database.reading() as session:
            failing = failing_deliveries(session, now - timedelta(minutes=told.destination_wait_min))
        if not failing:
            return None
        parts = "; ".join(f"{name}: {failed} failed, {late} late" for name, (failed, late) in failing.items())
        return Trouble(
            TroubleKind.DESTINATION_FAILING,
            {name: failed + late for name, (failed, late) in failing.items()},
            f"deliveries do not get through ({parts})",
            "look whether the destination answers; `iap-node jobs` names the last error",
        )

    def disk_low(now: datetime) -> Trouble | None:
        here = room(now)
        if here.free_bytes <= here.reserve_bytes:
            amount, says = USED_UP, "the spool's disk is used up: stores are refused"
        elif here.full_in_days is not None and here.full_in_days < told.disk_full_in_days:
            amount, says = LOW, f"the spool's disk is full in {here.full_in_days:.1f} days"
        else:
            return None
        remedy = "make room, or let retention do it: `iap-node retention --dry-run`"
        return Trouble(TroubleKind.DISK_LOW, {"disk": amount}, says, remedy)

    def quarantine_grown(now: datetime) -> Trouble | None:
        with database.reading() as session:
            n = count_quarantined_since(session, now - QUARANTINE_PERIOD)
        if not n:
            return None
        return Trouble(
            TroubleKind.QUARANTINE_GROWN,
            {"quarantine": n},
            f"{n} instances could not be filed in the last day",
            "`iap-node quarantine list` says why",
        )

    def model_drift(now: datetime) -> Trouble | None:
        with database.reading() as session:
            since = now - timedelta(days=told.drift_days)
            rates = alarm_rates(session, since, now, joint_alpha=config.audit.joint_alpha)
        # which scanner, its header says: people look there, and no message carries it
        names = (one.keyword for one in rates if one.above_alpha)
        above = Counter("whole header" if name == WHOLE_HEADER else name for name in names)
        if not above:
            return None
        parts = ", ".join(f"{name} of {n} scanner{'s' * (n > 1)}" for name, n in above.items())
        return Trouble(
            TroubleKind.MODEL_DRIFT,
            dict(above),
            f"the pixels doubt headers more often than promised: {parts}",
            "`iap-node alarms --above` names the scanners; the headers are wrong, or the model does not fit",
        )

    def series_held(now: datetime) -> Trouble | None:
        with database.reading() as session:
            n, uids = held_since_before(session, now - timedelta(minutes=told.held_wait_min), UIDS_NAMED)
        if not n:
            return None
        remedy = "`iap-node held` lists them; `iap-node release` or `reroute` decides"
        return Trouble(TroubleKind.SERIES_HELD, {"held": n}, f"{n} series wait for a person", remedy, uids)

    return {
        TroubleKind.DEAD_LETTERS: dead_letters,
        TroubleKind.DESTINATION_FAILING: destination_failing,
        TroubleKind.DISK_LOW: disk_low,
        TroubleKind.QUARANTINE_GROWN: quarantine_grown,
        TroubleKind.MODEL_DRIFT: model_drift,
        TroubleKind.SERIES_HELD: series_held,
    }
