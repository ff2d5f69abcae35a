"""The Conformance Statement is current, and says what the rooms' own tables say."""

from __future__ import annotations

from pathlib import Path

from iap_node.conformance.services import SERVICES
from iap_node.conformance.statement import conformance_statement
from iap_node.database.query import COLUMNS, MODALITIES
from iap_node.dicom.query import KEYS, NOT_KEPT
from iap_node.listener.handlers import Handlers

STATEMENT = Path(__file__).resolve().parents[2] / "docs" / "conformance.md"


def test_the_statement_is_current() -> None:
    """`python -m iap_node.conformance > docs/conformance.md` writes it anew."""
    assert STATEMENT.read_text(encoding="utf-8") == conformance_statement()


def test_every_key_that_is_stated_can_be_matched_or_counted() -> None:
    counted = {"NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances", "NumberOfSeriesRelatedInstances"}
    assert {key.keyword for key in KEYS} == {*COLUMNS, MODALITIES, *counted}
    assert not {key.keyword for key in KEYS} & set(NOT_KEPT)


def test_every_service_of_the_listener_is_stated() -> None:
    class Something:
        def __getattr__(self, name: str) -> object:
            return self

    handlers = Handlers(*(Something(),) * 4, None, None, Something(), Something())  # type: ignore[arg-type]
    stated = {one.sop_class_uid for one in SERVICES if one.scp}
    assert stated == {*handlers._services, "1.2.840.10008.1.1"}
