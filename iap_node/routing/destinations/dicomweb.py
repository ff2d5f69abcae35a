"""DICOMweb as a destination: STOW-RS, a series in requests of a few instances each, streamed from their files.

Instances leave byte for byte as they lie in the spool; of each, a megabyte is in memory. What the server says of each
instance is read from its answer; one that it says nothing of is sent again. Those whose transfer syntax it refuses are
sent once more, decompressed.

References
----------
PS3.18 section 10.5 (store transaction), PS3.18 Annex I.2 (its answer), PS3.18 Annex F (JSON), RFC 6750 (bearer tokens).
"""

from __future__ import annotations

import itertools
import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx2
import structlog

from iap_node.config.destinations import DicomwebConfig
from iap_node.config.secret import read_secret
from iap_node.dicom.elements import EXPLICIT_VR_LITTLE_ENDIAN
from iap_node.dicom.status import StoreStatus, is_accepted, is_permanent
from iap_node.errors import ConfigError, DeliveryError, PermanentError
from iap_node.records import InstanceDelivery
from iap_node.routing.destinations import https
from iap_node.routing.destinations.outgoing import (
    NotReadable,
    OutgoingInstance,
    delivered,
    file_chunks,
    header_of,
    in_syntax,
    refused,
    syntaxes,
    unanswered,
)

ACCEPTED, CONFLICT = 202, 409  # some instances with warnings or not at all; none
UNSUPPORTED_MEDIA = 415  # none of the request, for their transfer syntaxes (PS3.18 Table 10.5.3-1)
REFUSED_TRANSFER_SYNTAX = 0xC122  # of one instance: PS3.18 Table I.2-2
_NOT_SEARCHABLE = (400, 404, 405, 406, 501)  # it answers, and offers no search, which STOW-RS does without
_FAILED, _STORED = "00081198", "00081199"  # Failed SOP Sequence, Referenced SOP Sequence
_UID = "00081155"  # Referenced SOP Instance UID
_FAILURE, _WARNING = "00081197", "00081196"  # Failure Reason, Warning Reason

log = structlog.get_logger("destination")


class _UnsupportedMedia(PermanentError):
    """The server takes nothing of a request because of how it is encoded."""


class DicomwebDestination:
    """Stores into one DICOMweb server."""

    def __init__(self, config: DicomwebConfig) -> None:
        self._config = config

    def send(self, instances: Sequence[OutgoingInstance]) -> list[InstanceDelivery]:
        """Send instances, `instances_per_request` at a time.

        Raises
        ------
        DeliveryError
            Nobody answered the first request, or it asks us to come back later.
        PermanentError
            The server refuses us or our first request as such, or the files of token and TLS cannot be used.
        """
        answers: dict[int, InstanceDelivery] = {}
        readable: list[OutgoingInstance] = []
        for instance in instances:
            try:
                header_of(instance)
                readable.append(instance)
            except NotReadable as error:
                answers[instance.instance_id] = error.answer
        size = self._config.instances_per_request
        for start in range(0, len(readable), size):
            try:
                told = self._store_or_transcode(readable[start : start + size])
            except (DeliveryError, PermanentError) as error:
                if start == 0:
                    raise
                told = [unanswered(one, f"not sent: {error}") for one in readable[start:]]
            answers.update((one.instance_id, one) for one in told)
            if len(answers) == len(instances):
                break
        _log_refusals(instances, answers)
        return [answers[instance.instance_id] for instance in instances]

    def echo(self) -> None:
        """Ask for one study of the server, and read no answer but its code.

        Raises
        ------
        DeliveryError, PermanentError
            See `send`.
        """
        with self._client() as client:
            url, headers = self._url("studies"), {"Accept": "application/dicom+json", **self._authorization()}
            with client.stream("GET", url, params={"limit": 1}, headers=headers) as answer:
                code = answer.status_code
        if code >= 300 and code not in _NOT_SEARCHABLE:
            raise self._error(code)

    def _client(self) -> Any:
        config = self._config
        return https.client(config.timeout_s, config.ca, config.certificate, config.private_key)

    def _url(self, resource: str) -> str:
        return f"{self._config.url.rstrip('/')}/{resource}"

    def _authorization(self) -> dict[str, str]:
        if self._config.token_file is None:
            return {}
        token = read_secret(self._config.token_file, "token_file").strip()
        if not token.isascii() or any(character.isspace() for character in token):
            raise ConfigError(f"token_file: {self._config.token_file} holds no bearer token (RFC 6750 section 2.1)")
        return {"Authorization": f"Bearer {token}"}

    def _store_or_transcode(self, instances: Sequence[OutgoingInstance]) -> list[InstanceDelivery]:
        """Store, and what the server refuses for its transfer syntax once more in Explicit VR Little Endian."""
        others = {one.instance_id: one for one in instances if self._other_syntax(one) is not None}
        try:
            told = self._store(instances)
        except _UnsupportedMedia as error:
            if not others:
                raise
            told = [unanswered(one, str(error)) for one in instances]
            again = list(instances)
        else:
            again = [one for one, answer in zip(instances, told, strict=True)
                     if answer.status == REFUSED_TRANSFER_SYNTAX and one.instance_id in others]  # fmt: skip
        answers = {one.instance_id: one for one in told}
        transcoded = []
        for one in again:
            other = in_syntax(one, self._other_syntax(one) or one.transfer_syntax_uid)
            try:
                header_of(other)
                transcoded.append(other)
            except NotReadable as error:
                answers[one.instance_id] = error.answer
        if transcoded:
            log.info("instances are sent decompressed", instances=len(transcoded), address=self._config.address)
            answers.update((one.instance_id, one) for one in self._store(transcoded))
        return [answers[one.instance_id] for one in instances]

    def _other_syntax(self, instance: OutgoingInstance) -> str | None:
        """What a server must take that does not take the stored one (PS3.18 section 8.7.3.1)."""
        _, *others = syntaxes(instance, transcode=self._config.transcode == "as_needed")
        return next((one for one in others if one == EXPLICIT_VR_LITTLE_ENDIAN), None)

    def _store(self, instances: Sequence[OutgoingInstance]) -> list[InstanceDelivery]:
        boundary = secrets.token_hex(16)
        headers = {
            "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
            "Accept": "application/dicom+json",
            **self._authorization(),
        }
        try:
            with self._client() as client:
                request = client.build_request(
                    "POST", self._url("studies"), content=_parts(instances, boundary), headers=headers
                )
                code, body = _exchange(client, request)
        except NotReadable as error:  # its file went while it was sent: the request is cut off
            others = "not sent: another instance of the request could not be read"
            failed = error.answer.instance_id
            return [error.answer if one.instance_id == failed else unanswered(one, others) for one in instances]
        told = _told(body)
        if not told and (code in (ACCEPTED, CONFLICT) or code >= 300):
            if code == ACCEPTED:
                return [unanswered(one, "HTTP 202, and its answer does not say which instances are stored")
                        for one in instances]  # fmt: skip
            raise self._error(code)
        return [_answer(one, told, code) for one in instances]

    def _error(self, code: int) -> DeliveryError | PermanentError:
        text = f"{self._config.address} answers {code}: {https.remedy(code)}"
        if code == UNSUPPORTED_MEDIA:
            return _UnsupportedMedia(text)
        return PermanentError(text) if https.is_permanent_code(code) else DeliveryError(text)


def _exchange(client: httpx2.Client, request: httpx2.Request) -> tuple[int, bytes]:
    answer = client.send(request, stream=True)
    try:
        return answer.status_code, https.content(answer)
    finally:
        answer.close()


def _parts(instances: Sequence[OutgoingInstance], boundary: str) -> Iterator[bytes]:
    """The body of a request (RFC 2387), a piece at a time."""
    for instance in instances:
        yield f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        yield from file_chunks(instance)
        yield b"\r\n"
    yield f"--{boundary}--\r\n".encode()


# ---------------------------------------------------------------- the answer


@dataclass(frozen=True, slots=True)
class _Said:
    stored: bool
    reason: int | None  # Failure Reason or Warning Reason


def _told(body: bytes) -> dict[str, _Said]:
    """What an answer says, by SOP Instance UID; nothing where it is no DICOM JSON. A failure outweighs the rest."""
    try:
        ds = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    if isinstance(ds, list) and len(ds) == 1:
        ds = ds[0]
    told: dict[str, _Said] = {}
    for sequence, reason in ((_STORED, _WARNING), (_FAILED, _FAILURE)):
        for item in _values(ds, sequence):
            uid = next(iter(_values(item, _UID)), None)
            if isinstance(uid, str):
                number = next(iter(_values(item, reason)), None)
                code = number if isinstance(number, int) and 0 <= number <= 0xFFFF else None
                told[uid.strip(" \0")] = _Said(sequence == _STORED, code)
    return told


def _values(ds: Any, tag: str) -> list[Any]:
    element = ds.get(tag) if isinstance(ds, Mapping) else None
    values = element.get("Value") if isinstance(element, Mapping) else None
    return values if isinstance(values, list) else []


def _answer(instance: OutgoingInstance, told: Mapping[str, _Said], code: int) -> InstanceDelivery:
    said = told.get(instance.sop_instance_uid)
    if said is None:
        if not told and code < 300:  # 200 means that all are stored
            return delivered(instance, f"HTTP {code}")
        return unanswered(instance, f"HTTP {code}, and its answer does not speak of it")
    if said.stored:
        warning = "" if said.reason is None else f", warning {said.reason:04X}H"
        return delivered(instance, f"HTTP {code}{warning}", said.reason or int(StoreStatus.SUCCESS))
    if said.reason is None:
        return unanswered(instance, f"HTTP {code}, not stored, without a reason")
    comment = f"HTTP {code}, not stored, failure reason {said.reason:04X}H"
    if is_accepted(said.reason):  # a warning in the wrong sequence
        return unanswered(instance, comment)
    return (refused if is_permanent(said.reason) else unanswered)(instance, comment, said.reason)


def _log_refusals(instances: Sequence[OutgoingInstance], answers: Mapping[int, InstanceDelivery]) -> None:
    """One line for each kind of refusal."""
    left = [one for one in instances if not answers[one.instance_id].accepted]
    by_comment = sorted(left, key=lambda one: answers[one.instance_id].comment)
    for comment, group in itertools.groupby(by_comment, key=lambda one: answers[one.instance_id].comment):
        uids = [one.sop_instance_uid for one in group]
        log.warning("instances not accepted", instances=len(uids), first_sop_instance_uid=uids[0], comment=comment)
