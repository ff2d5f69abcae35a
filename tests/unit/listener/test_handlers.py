"""Orders of events that real sockets produce too seldom to test with them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from pynetdicom import AE, evt
from pynetdicom.association import Association

from iap_node.config import ListenerConfig
from iap_node.database.engine import Database
from iap_node.listener.admission import Admission
from iap_node.listener.associations import Associations
from iap_node.listener.handlers import Handlers
from iap_node.listener.intake import Intake
from iap_node.listener.limits import Limits
from iap_node.listener.places import Places
from iap_node.spool import Spool


@pytest.fixture
def released() -> list[list[str]]:
    return []


@pytest.fixture
def associations() -> Associations:
    return Associations(Places(25, 25))


@pytest.fixture
def intake(tmp_path: Path) -> Iterator[Intake]:
    intake = Intake(Spool(tmp_path), Database(f"sqlite:///{tmp_path / 'node.sqlite'}"), b"k" * 32)
    yield intake
    intake.close()


@pytest.fixture
def handlers(intake: Intake, associations: Associations, released: list[list[str]]) -> Handlers:
    config = ListenerConfig()
    return Handlers(intake, Admission(config), associations, Limits.of(config), released.append)


@pytest.fixture
def assoc(associations: Associations, monkeypatch: pytest.MonkeyPatch) -> Association:
    """An acceptor that received one instance."""
    assoc = Association(AE(), "acceptor")
    monkeypatch.setattr(assoc, "is_alive", lambda: True)
    associations.opened(assoc, "SCANNER", "127.0.0.1")
    associations.accepted(assoc, "1.2.3")
    return assoc


def event(assoc: Association, **facts: Any) -> evt.Event:
    return cast(evt.Event, SimpleNamespace(assoc=assoc, **facts))


def test_connection_that_closes_before_the_release_is_told_does_not_hide_the_release(
    handlers: Handlers, intake: Intake, assoc: Association, released: list[list[str]]
) -> None:
    assoc.is_released = True
    handlers.on_connection_closed(event(assoc))  # in pynetdicom's other thread
    handlers.on_released(event(assoc))
    assert intake.flush(30)
    assert released == [["1.2.3"]]


def test_connection_that_just_closes_is_no_release(
    handlers: Handlers, assoc: Association, associations: Associations, released: list[list[str]]
) -> None:
    handlers.on_connection_closed(event(assoc))
    assert released == []
    assert associations.count() == 0


def test_release_of_an_association_without_instances_tells_nothing(
    handlers: Handlers, intake: Intake, associations: Associations, released: list[list[str]]
) -> None:
    silent = Association(AE(), "acceptor")
    associations.opened(silent, "SCANNER", "127.0.0.1")
    handlers.on_released(event(silent))
    handlers.on_aborted(event(silent))
    assert intake.flush(30)
    assert released == []


def test_association_whose_thread_broke_down_is_forgotten(associations: Associations) -> None:
    broken, sound = Association(AE(), "acceptor"), Association(AE(), "acceptor")
    associations.opened(broken, "SCANNER", "127.0.0.1")  # its thread never ran
    associations.opened(sound, "SCANNER", "127.0.0.1")
    assert associations.count() == 1
