"""Looks what is wrong and tells whoever is to know. Called by the scheduler each minute, and by `iap-node notify`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import structlog

from iap_node.config import NodeConfig
from iap_node.config.notifications import HAPPENS_ONCE, TroubleKind
from iap_node.database import notifications as rows
from iap_node.database.engine import Database
from iap_node.errors import NodeError
from iap_node.notify.conditions import Look, LookAtRoom, looks
from iap_node.notify.decision import Told, is_quiet, news
from iap_node.notify.email import EmailChannel
from iap_node.notify.message import Channel, Event, Message, Trouble
from iap_node.notify.webhook import WebhookChannel

# What reads much of the archive is looked at less often; between two looks the last one stands.
SELDOM = {TroubleKind.MODEL_DRIFT: timedelta(hours=1), TroubleKind.DISK_LOW: timedelta(minutes=5)}
CLAIM = timedelta(minutes=10)  # longer than any channel takes
STALE = timedelta(days=7)  # what happened longer ago is told to nobody: a channel that is new gets no history
LAST = "announcement"  # the number of the last that a channel was told of

log = structlog.get_logger("notify")


def channels_of(config: NodeConfig) -> list[Channel]:
    """The channels that the configuration names."""
    told = config.notifications
    channels: list[Channel] = []
    if told.email is not None:
        channels.append(EmailChannel(told.email))
    if told.webhook is not None:
        channels.append(WebhookChannel(told.webhook))
    return channels


class Watch:
    """Keeps channels informed. What was told stands in the database: a restart repeats nothing.

    Parameters
    ----------
    room
        Looks at the spool's disk; `iap_node.upkeep.capacity.capacity`, from whom has both rooms.
    """

    def __init__(
        self, config: NodeConfig, database: Database, room: LookAtRoom, channels: Sequence[Channel] | None = None
    ) -> None:
        self._config = config
        self._database = database
        self._channels = channels_of(config) if channels is None else channels
        every = looks(config, database, room)
        self._looks: dict[TroubleKind, Look] = {
            kind: every[kind] for kind in config.notifications.kinds if kind not in HAPPENS_ONCE
        }
        self._last: dict[TroubleKind, tuple[datetime, Trouble | None]] = {}

    def look(self, now: datetime) -> None:
        """Look at everything and tell what is news; a channel that fails is tried again at the next look.

        Raises
        ------
        DatabaseUnavailable
            The database did not answer.
        """
        troubles = self.troubles(now)
        for channel in self._channels:
            with self._database.reading() as session:
                told = rows.told(session, channel.name)
            for kind, trouble in troubles.items():
                last = Told(*told[kind]) if kind in told else Told()
                event = news(kind, trouble, last, self._config.notifications, now)
                if event is not None and not self._tell_of(channel, kind, trouble, event, last, now):
                    break  # it would not take the others either, and each try may last until its timeout
            else:
                self._tell_what_happened(channel, told, now)

    def troubles(self, now: datetime) -> dict[TroubleKind, Trouble | None]:
        """What is wrong, by kind; kinds that cannot be looked at now are left out: they neither begin nor end."""
        found: dict[TroubleKind, Trouble | None] = {}
        for kind, look in self._looks.items():
            seen = self._last.get(kind)
            if seen is None or now - seen[0] >= SELDOM.get(kind, timedelta(0)):
                try:
                    seen = self._last[kind] = (now, look(now))
                except OSError as error:
                    log.warning("cannot look", kind=kind.value, error=str(error))
                    continue
            found[kind] = seen[1]
        return found

    def tell(self, message: Message) -> dict[str, NodeError | None]:
        """Send one message to every channel, whatever was told before; by channel, why it was not taken."""
        answers: dict[str, NodeError | None] = {}
        for channel in self._channels:
            answers[channel.name] = _sent(channel, message)
        return answers

    def message(self, kind: str, event: Event, summary: str, remedy: str, now: datetime) -> Message:
        """A message of this node that is about no trouble."""
        return Message(
            self._config.listener.ae_title, kind, event, summary, remedy, now, {}, (), self._config.web.public_url
        )

    def _tell_of(
        self, channel: Channel, kind: TroubleKind, trouble: Trouble | None, event: Event, last: Told, now: datetime
    ) -> bool:
        """False: the channel did not take it."""
        with self._database.transaction() as session:
            if not rows.claim(session, channel.name, kind.value, last.at, now + CLAIM, now):
                return True
        error = _sent(channel, self._message_of(kind, trouble, event, last, now))
        with self._database.transaction() as session:
            if error is not None:
                rows.give_claim_back(session, channel.name, kind.value)
            else:
                amounts = {} if trouble is None else trouble.amounts
                begun = event not in (Event.OVER, Event.BETTER)
                rows.note_told(session, channel.name, kind.value, amounts, now, begun=begun)
        if error is not None:
            log.warning("not told", channel=channel.name, kind=kind.value, error=str(error))
            return False
        log.info("told", channel=channel.name, kind=kind.value, what=event.value)
        return True

    def _tell_what_happened(self, channel: Channel, told: dict[str, rows.ToldRow], now: datetime) -> None:
        """Tell a channel what was announced since it last heard, in order, until it does not take one."""
        config = self._config.notifications
        for kind in config.kinds:
            if kind not in HAPPENS_ONCE or (is_quiet(config, now) and kind not in config.quiet_exempt):
                continue
            amounts, told_at, _ = told.get(kind, ({}, None, None))
            with self._database.reading() as session:
                new = rows.announcements(session, kind, amounts.get(LAST, 0), now - STALE)
            for one in new:
                with self._database.transaction() as session:
                    if not rows.claim(session, channel.name, kind.value, told_at, now + CLAIM, now):
                        break
                message = self.message(kind.value, Event.HAPPENED, one.summary, one.remedy, one.made_at)
                error = _sent(channel, message)
                with self._database.transaction() as session:
                    if error is not None:
                        rows.give_claim_back(session, channel.name, kind.value)
                    else:
                        rows.note_told(session, channel.name, kind.value, {LAST: one.id}, now, begun=True)
                if error is not None:
                    log.warning("not told", channel=channel.name, kind=kind.value, error=str(error))
                    return
                told_at = now
                log.info("told", channel=channel.name, kind=kind.value, what=Event.HAPPENED.value)

    def _message_of(
        self, kind: TroubleKind, trouble: Trouble | None, event: Event, last: Told, now: datetime
    ) -> Message:
        node, url = self._config.listener.ae_title, self._config.web.public_url
        if trouble is None:
            what = kind.value.replace("_", " ")
            return Message(node, kind.value, event, what, "Nothing needs to be done.", now, last.amounts, (), url)
        return Message(
            node,
            kind.value,
            event,
            trouble.summary,
            trouble.remedy,
            now,
            trouble.amounts,
            trouble.series_instance_uids,
            url,
        )


def _sent(channel: Channel, message: Message) -> NodeError | None:
    try:
        channel.send(message)
    except NodeError as error:
        return error
    return None
