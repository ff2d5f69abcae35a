"""DICOMweb as a destination: what goes over the wire, and what answers mean. With Orthanc: ../partners."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from email.parser import BytesParser
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless

from iap_node.config.destinations import DicomwebConfig
from iap_node.errors import ConfigError, DeliveryError, PermanentError
from iap_node.routing.destinations.dicomweb import DicomwebDestination
from iap_node.routing.destinations.outgoing import OutgoingInstance
from tests.integration.listener.conftest import Certificates
from tests.integration.routing.https_server import HttpsServer, Received


@pytest.fixture
def destination(https_server: HttpsServer, certificates: Certificates) -> Callable[..., DicomwebDestination]:
    """Factory of destinations at the server."""

    def make(**changes: Any) -> DicomwebDestination:
        content = {
            "kind": "dicomweb", "url": f"{https_server.url}/dicom-web/", "ca": certificates.file("ca.pem"),
            "timeout_s": 5,
        }  # fmt: skip
        return DicomwebDestination(DicomwebConfig.model_validate(content | changes))

    return make


def answer(stored: dict[str, int | None] | None = None, failed: dict[str, int | None] | None = None) -> bytes:
    """An answer as PS3.18 Annex I.2 has it."""

    def items(said: dict[str, int | None], reason: str) -> dict[str, Any]:
        return {"vr": "SQ", "Value": [
            {"00081155": {"vr": "UI", "Value": [uid]}}
            | ({} if code is None else {reason: {"vr": "US", "Value": [code]}})
            for uid, code in said.items()
        ]}  # fmt: skip

    ds = {"00081199": items(stored, "00081196")} if stored else {}
    return json.dumps(ds | ({"00081198": items(failed, "00081197")} if failed else {})).encode()


def parts(request: Received) -> list[tuple[str, bytes]]:
    """Type and content of each part, read by a parser that is not ours."""
    head = f"Content-Type: {request.headers['Content-Type']}\r\n\r\n".encode()
    message = BytesParser().parsebytes(head + request.body)
    return [(part.get_content_type(), bytes(part.get_payload(decode=True))) for part in message.get_payload()]  # type: ignore[union-attr,arg-type]


def test_instances_go_byte_for_byte_in_requests_of_a_few(
    destination: Callable[..., DicomwebDestination],
    https_server: HttpsServer,
    certificates: Certificates,
    write_instance: Callable[..., OutgoingInstance],
    tmp_path: Path,
) -> None:
    token = tmp_path / "token"
    token.write_text("abc.def\n")
    token.chmod(0o600)
    series = [write_instance() for _ in range(3)]
    own = {"certificate": certificates.file("scanner.pem"), "private_key": certificates.file("scanner.key")}
    answers = destination(instances_per_request=2, token_file=token, **own).send(series)
    assert all(one.accepted for one in answers)
    first, second = https_server.received
    assert (first.method, first.path) == ("POST", "/dicom-web/studies")
    assert first.headers["Authorization"] == "Bearer abc.def"
    assert 'type="application/dicom"' in first.headers["Content-Type"]
    assert first.peer_certificate
    sent = [*parts(first), *parts(second)]
    assert {kind for kind, _ in sent} == {"application/dicom"}
    assert len(parts(first)) == 2
    assert [len(content) for _, content in sent] == [len(Path(str(one.file)).read_bytes()) for one in series]
    assert all(content == Path(str(one.file)).read_bytes() for (_, content), one in zip(sent, series, strict=True))


def test_each_instance_gets_its_own_answer(
    destination: Callable[..., DicomwebDestination],
    https_server: HttpsServer,
    write_instance: Callable[..., OutgoingInstance],
) -> None:
    series = [write_instance() for _ in range(6)]
    fine, warned, full, wrong, silent, unexplained = (one.sop_instance_uid for one in series)
    https_server.answer = lambda _: (
        202,
        answer({fine: None, warned: 0xB000}, {full: 0xA700, wrong: 0xA900, unexplained: None}),
    )
    told = destination().send(series)
    assert [(one.accepted, one.permanent, one.status) for one in told] == [
        (True, False, 0x0000), (True, False, 0xB000), (False, False, 0xA700), (False, True, 0xA900),
        (False, False, None), (False, False, None),
    ]  # fmt: skip
    assert "B000H" in told[1].comment and "A900H" in told[3].comment and silent == series[4].sop_instance_uid


def test_409_with_reasons_is_no_error_of_the_whole(
    destination: Callable[..., DicomwebDestination],
    https_server: HttpsServer,
    write_instance: Callable[..., OutgoingInstance],
) -> None:
    one = write_instance()
    https_server.answer = lambda _: (409, answer(failed={one.sop_instance_uid: 0xC000}))
    assert [(told.accepted, told.permanent) for told in destination().send([one])] == [(False, True)]


@pytest.mark.parametrize(
    ("code", "error"), [(401, PermanentError), (409, PermanentError), (429, DeliveryError), (503, DeliveryError)]
)
def test_a_refusal_of_the_first_request_is_of_the_whole(
    destination: Callable[..., DicomwebDestination],
    https_server: HttpsServer,
    write_instance: Callable[..., OutgoingInstance],
    code: int,
    error: type[Exception],
) -> None:
    https_server.answer = lambda _: (code, b"John Doe")
    with pytest.raises(error, match=f"answers {code}") as caught:
        destination().send([write_instance()])
    assert type(caught.value) is error and "Doe" not in str(caught.value)


@pytest.mark.parametrize("body", [b"", b"[]", b"nonsense", b"[" * 100_000, b'{"00081199": {"Value": [7]}}'])
def test_202_that_says_nothing_is_sent_again_and_200_means_all(
    destination: Callable[..., DicomwebDestination],
    https_server: HttpsServer,
    write_instance: Callable[..., OutgoingInstance],
    body: bytes,
) -> None:
    for code in (202, 200):
        https_server.answer = lambda _, code=code: (code, body)  # type: ignore[misc]
        (told,) = destination().send([write_instance()])
        assert (told.accepted, told.permanent) == (code == 200, False)


def test_what_a_later_request_does_not_reach_is_sent_again(
    destination: Callable[..., DicomwebDestination],
    https_server: HttpsServer,
    write_instance: Callable[..., OutgoingInstance],
) -> None:
    https_server.answer = lambda _: (200, b"") if len(https_server.received) == 1 else None
    told = destination(instances_per_request=1).send([write_instance() for _ in range(3)])
    assert [(one.accepted, one.permanent) for one in told] == [(True, False), (False, False), (False, False)]
    assert len(https_server.received) == 2


@dataclass(frozen=True)
class GoesAway:
    """A file that is there when it is looked at, and gone when it is sent."""

    path: Path
    opened: list[int]

    def open(self, mode: Any) -> Any:
        self.opened.append(1)
        if len(self.opened) > 1:
            raise FileNotFoundError
        return self.path.open(mode)


def test_an_instance_without_its_file_is_refused_and_the_others_go(
    destination: Callable[..., DicomwebDestination],
    https_server: HttpsServer,
    write_instance: Callable[..., OutgoingInstance],
) -> None:
    gone, here, going = write_instance(), write_instance(), write_instance()
    Path(str(gone.file)).unlink()
    assert [one.accepted for one in destination().send([gone, here])] == [False, True]
    lost = OutgoingInstance(
        going.instance_id, going.sop_class_uid, going.sop_instance_uid, going.transfer_syntax_uid,
        GoesAway(Path(str(going.file)), []),
    )  # fmt: skip
    told = destination().send([here, lost])
    assert [(one.accepted, one.permanent) for one in told] == [(False, False), (False, True)]


def test_echo_asks_and_takes_no_search_for_an_answer(
    destination: Callable[..., DicomwebDestination], https_server: HttpsServer, tmp_path: Path
) -> None:
    for code in (200, 204, 404):
        https_server.answer = lambda _, code=code: (code, b"")  # type: ignore[misc]
        destination().echo()
    assert https_server.received[0].path == "/dicom-web/studies?limit=1"
    https_server.answer = lambda _: (403, b"")
    with pytest.raises(PermanentError, match="token"):
        destination().echo()
    (tmp_path / "token").write_text("two words")
    (tmp_path / "token").chmod(0o600)
    with pytest.raises(ConfigError, match="bearer"):
        destination(token_file=tmp_path / "token").echo()


@pytest.mark.parametrize("by", ["status", "instance"])
def test_what_the_server_refuses_for_its_transfer_syntax_goes_once_more_decompressed(
    destination: Callable[..., DicomwebDestination],
    https_server: HttpsServer,
    write_instance: Callable[..., OutgoingInstance],
    by: str,
) -> None:
    plain, damaged = write_instance(), write_instance(transfer_syntax_uid=JPEG2000Lossless)
    path = Path(str(get_testdata_file("MR_small_jp2klossless.dcm")))
    ds = dcmread(path)
    compressed = OutgoingInstance(100, str(ds.SOPClassUID), str(ds.SOPInstanceUID), JPEG2000Lossless, path)
    refused = {one.sop_instance_uid: 0xC122 for one in (damaged, compressed)}

    def reply(request: Received) -> tuple[int, bytes]:
        if len(https_server.received) > 1:
            return 200, b""
        return (415, b"") if by == "status" else (202, answer({plain.sop_instance_uid: None}, refused))

    https_server.answer = reply
    told = destination().send([plain, damaged, compressed])
    assert [(one.accepted, one.permanent) for one in told] == [(True, False), (False, True), (True, False)]
    assert "cannot be decompressed" in told[1].comment
    again = [dcmread(BytesIO(content)) for _, content in parts(https_server.received[1])]
    assert [str(one.SOPInstanceUID) for one in again] == [
        *([plain.sop_instance_uid] if by == "status" else []), compressed.sop_instance_uid
    ]  # fmt: skip
    assert again[-1].file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert (again[-1].pixel_array == ds.pixel_array).all()
    https_server.received.clear()
    if by == "status":
        with pytest.raises(PermanentError, match="415"):
            destination(transcode="never").send([plain, damaged, compressed])
    else:
        assert [one.accepted for one in destination(transcode="never").send([plain, damaged, compressed])] == [
            True, False, False
        ]  # fmt: skip
