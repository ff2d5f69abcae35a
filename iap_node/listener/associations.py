"""The open associations, what each is doing, and the places that they have. `handlers` keeps it up to date; `scp`
asks it when the node stops.

An association is busy from the first P-DATA-TF of a message until our answer to it has left: a store that is
being received, filed or answered counts as running.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from pynetdicom.association import Association

from iap_node.listener.places import Full, Places


@dataclass(slots=True)
class Activity:
    """What one association did so far."""

    calling_ae_title: str
    source_address: str
    n_accepted: int = 0
    n_failed: int = 0
    series_instance_uids: dict[str, None] = field(default_factory=dict)  # in order of arrival
    started_at_s: float = field(default_factory=time.monotonic)
    busy: bool = False
    finished: bool = False  # the node stops, and what was running is answered


class Associations:
    """Bookkeeping over all open associations; every method may be called from any thread."""

    def __init__(self, places: Places) -> None:
        self._turn = threading.Lock()
        self._changed = threading.Condition(self._turn)
        self._places = places
        self._place_of: dict[Association, int] = {}
        self._activities: dict[Association, Activity] = {}
        self._n_busy = 0
        self._draining = False

    def admit(self, assoc: Association, peer: str) -> Full | None:
        """Take a place for an association that is to be accepted; which limit leaves none."""
        self.forget_ended()
        place = self._places.take(peer)
        if isinstance(place, Full):
            return place
        with self._turn:
            self._place_of[assoc] = place
        return None

    def opened(self, assoc: Association, calling_ae_title: str, source_address: str) -> None:
        """An association was established."""
        self.forget_ended()
        with self._turn:
            self._activities[assoc] = Activity(calling_ae_title, source_address, finished=self._draining)
            self._changed.notify_all()

    def closed(self, assoc: Association) -> Activity | None:
        """An association ended, for whatever reason, or came to nothing; None when that is known already."""
        with self._turn:
            activity = self._activities.pop(assoc, None)
            if activity is not None:
                self._n_busy -= activity.busy
            place = self._place_of.pop(assoc, None)
            self._changed.notify_all()
        if place is not None:
            self._places.give_back(place)
        return activity

    def forget_ended(self) -> None:
        """Close those whose threads ended without telling: they broke down, or the peer was gone before it had its
        answer."""
        with self._turn:
            ended = [assoc for assoc in {*self._activities, *self._place_of} if not assoc.is_alive()]
        for assoc in ended:
            self.closed(assoc)

    def message_started(self, assoc: Association) -> None:
        """A P-DATA-TF came in."""
        with self._turn:
            activity = self._activities.get(assoc)
            if activity is not None and not activity.finished and not activity.busy:
                activity.busy = True
                self._n_busy += 1

    def message_answered(self, assoc: Association) -> None:
        """A P-DATA-TF went out."""
        with self._turn:
            activity = self._activities.get(assoc)
            if activity is not None:
                self._n_busy -= activity.busy
                activity.busy = False
                if self._draining:
                    activity.finished = True
                    self._changed.notify_all()

    def accepted(self, assoc: Association, series_instance_uid: str) -> None:
        """An instance of this association is durable, and its sender is told so."""
        with self._turn:
            activity = self._activities.get(assoc)
            if activity is not None:
                activity.n_accepted += 1
                activity.series_instance_uids[series_instance_uid] = None

    def failed(self, assoc: Association) -> None:
        """An instance of this association was not accepted."""
        with self._turn:
            activity = self._activities.get(assoc)
            if activity is not None:
                activity.n_failed += 1

    def is_busy(self, assoc: Association) -> bool:
        """Whether this one is receiving, filing or answering something."""
        activity = self._activities.get(assoc)
        return activity is not None and activity.busy

    def n_busy(self) -> int:
        """How many are receiving, filing or answering something."""
        return self._n_busy

    def count(self) -> int:
        """How many associations are open."""
        with self._turn:
            return len(self._activities)

    def wait_for_finished(self, deadline_s: float) -> list[Association]:
        """The next associations that can be ended without cutting a running store short; empty when none is
        open.

        From the first call on, what an association starts after its running store is no longer waited for.

        Parameters
        ----------
        deadline_s
            By `time.monotonic`. After it, every association counts as finished.
        """
        with self._turn:
            if not self._draining:
                self._draining = True
                for activity in self._activities.values():
                    activity.finished = not activity.busy
            self._changed.wait_for(
                lambda: not self._activities or any(item.finished for item in self._activities.values()),
                timeout=max(0.0, deadline_s - time.monotonic()),
            )
            late = time.monotonic() >= deadline_s
            return [assoc for assoc, activity in self._activities.items() if late or activity.finished]
