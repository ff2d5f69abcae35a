"""The Conformance Statement tells the truth: what it lists is negotiated with a running listener, all else refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import UID_dictionary  # type: ignore[attr-defined]
from pynetdicom import AE, build_context, evt
from pynetdicom.presentation import PresentationContext

from iap_node.config import SourceConfig
from iap_node.errors import DeliveryError
from iap_node.pull.retrieve import Retriever
from tests.integration.listener.conftest import WAIT_S, Node

pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)

STATEMENT = (Path(__file__).resolve().parents[3] / "docs" / "conformance.md").read_text(encoding="utf-8")
IMPLICIT = "1.2.840.10008.1.2"


def listed(title: str) -> list[str]:
    """UIDs of the tables of the statement whose first column has this title."""
    found: list[str] = []
    for block in STATEMENT.split("\n\n"):
        if block.startswith(f"| {title} | UID |"):
            found += re.findall(r"`([0-9.]+)`", block)
    assert found, title
    return found


def negotiated(node: Node, proposed: list[tuple[str, list[str]]]) -> list[str | None]:
    """The transfer syntax that each context was accepted in; None: it was not."""
    answers: list[str | None] = []
    ae = AE(ae_title="PEER")
    ae.acse_timeout = ae.network_timeout = WAIT_S
    for start in range(0, len(proposed), 127):
        part = proposed[start : start + 127]
        # Verification keeps an association alive of which nothing else is accepted
        contexts: list[PresentationContext] = [build_context(uid, syntaxes) for uid, syntaxes in part]
        assoc = ae.associate(
            "127.0.0.1", node.port, [*contexts, build_context("1.2.840.10008.1.1")], ae_title="IAP_NODE"
        )
        assert assoc.is_established
        accepted = {context.context_id: str(context.transfer_syntax[0]) for context in assoc.accepted_contexts}
        answers += [accepted.get(2 * number + 1) for number in range(len(part))]
        assoc.release()
    return answers


def test_everything_that_is_stated_is_negotiated(node: Node) -> None:
    services, service_syntaxes = listed("SOP Class"), listed("transfer syntax")
    storage, syntaxes = listed("storage SOP Class"), listed("storage transfer syntax")
    assert len(services) == 3 and len(storage) > 150 and len(syntaxes) > 40
    assert negotiated(node, [(uid, syntaxes) for uid in storage]) == [syntaxes[0]] * len(storage)
    mr = "1.2.840.10008.5.1.4.1.1.4"
    assert negotiated(node, [(mr, [syntax]) for syntax in syntaxes]) == syntaxes
    # every class with some syntax, and every syntax with some class
    pairs = [(uid, [syntaxes[number % len(syntaxes)]]) for number, uid in enumerate(storage)]
    assert negotiated(node, pairs) == [one for _, (one,) in pairs]
    for uid in services:
        assert negotiated(node, [(uid, [syntax]) for syntax in service_syntaxes]) == service_syntaxes
    private = [("1.2.826.0.1.3680043.9999.1", [IMPLICIT]), (mr, ["1.2.826.0.1.3680043.9999.2"])]
    assert None not in negotiated(node, private)


def test_nothing_that_is_not_stated_is_negotiated(node: Node) -> None:
    stated = {*listed("SOP Class"), *listed("storage SOP Class")}
    classes = {uid for uid, (_, kind, *_) in UID_dictionary.items() if kind in ("SOP Class", "Meta SOP Class")}
    others = sorted(classes - stated)
    assert len(others) > 100
    assert set(negotiated(node, [(uid, [IMPLICIT]) for uid in others])) == {None}
    syntaxes = {uid for uid, (_, kind, *_) in UID_dictionary.items() if kind == "Transfer Syntax"}
    mr = "1.2.840.10008.5.1.4.1.1.4"
    left_out = sorted(syntaxes - set(listed("storage transfer syntax")))
    assert set(negotiated(node, [(mr, [uid]) for uid in left_out])) == {None}
    jpeg = "1.2.840.10008.1.2.4.50"
    assert negotiated(node, [(uid, [jpeg]) for uid in listed("SOP Class")[1:]]) == [None, None]


def test_a_pull_by_c_get_proposes_what_is_stated(make_node: Callable[..., Node]) -> None:
    node = make_node(start=False)
    proposed: list[Any] = []
    ae = AE(ae_title="PACS")
    ae.add_supported_context("1.2.840.10008.1.1")
    server = ae.start_server(
        ("127.0.0.1", 0), block=False,
        evt_handlers=[(evt.EVT_REQUESTED, lambda event: proposed.append(event.assoc.requestor))],
    )  # fmt: skip
    source = {"ae_title": "PACS", "host": "127.0.0.1", "port": server.server_address[1], "retrieve": "get"}
    try:
        with (
            pytest.raises(DeliveryError, match="offers no C-FIND"),
            Retriever(SourceConfig.model_validate(source), "IAP_NODE", node.intake).connected(),
        ):
            pass
    finally:
        server.shutdown()
    (requestor,) = proposed
    contexts = [(str(context.abstract_syntax), context.transfer_syntax) for context in requestor.requested_contexts]
    classes = listed("SOP Class of C-GET")
    assert [uid for uid in dict.fromkeys(uid for uid, _ in contexts) if uid in classes] == classes
    syntaxes = {str(syntax) for uid, proposed_syntaxes in contexts if uid in classes for syntax in proposed_syntaxes}
    assert syntaxes == set(listed("transfer syntax of C-GET"))
    assert set(requestor.role_selection) == set(classes)
    assert "1.2.840.10008.5.1.4.1.2.2.3" in {uid for uid, _ in contexts} and len(contexts) <= 128
