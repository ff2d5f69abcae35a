"""Composes the DICOM Conformance Statement in the order of PS3.2 Annex A.

What the code has as a table stands in tables made from it; sentences state what tests of the same name prove. Called
by `python -m iap_node.conformance` and by the tests.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from pydicom.datadict import dictionary_description, tag_for_keyword

from iap_node.config import ListenerConfig, QueryConfig, StorageCommitmentConfig
from iap_node.config.web import StowConfig
from iap_node.conformance.services import DELIVERY, LISTENER, PULL, SERVICE_TRANSFER_SYNTAXES, SERVICES
from iap_node.deidentification.profile import EDITION, METHOD_CODES, OPTION_CODES, PROFILE_CODE, Retained
from iap_node.deidentification.refusals import ACQUIRED, ACQUIRED_IF_NOT_BURNED_IN
from iap_node.dicom.commitment import ActionStatus, FailureReason
from iap_node.dicom.frames import DECODABLE
from iap_node.dicom.parameters import BY_KEYWORD as PARAMETERS
from iap_node.dicom.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from iap_node.dicom.query import KEYS, NOT_KEPT, FindStatus, Level
from iap_node.dicom.sop_classes import (
    MR_IMAGE_SOP_CLASSES,
    STORAGE_SOP_CLASSES,
    TRANSFER_SYNTAXES,
    sop_class_name,
    transfer_syntax_name,
)
from iap_node.dicom.status import StoreStatus
from iap_node.dicom.store_instances import STUDY_MISMATCH
from iap_node.listener.admission import RejectReason
from iap_node.listener.receiver import MAX_COMMITMENT_BYTES
from iap_node.pull.retrieve import GET_SOP_CLASSES, GET_TRANSFER_SYNTAXES
from iap_node.scu import MOST_CONTEXTS
from iap_node.web.dicomweb.multipart import MOST_PARTS
from iap_node.web.dicomweb.store import PREFIX as STOW_PREFIX


def conformance_statement() -> str:
    """The statement as Markdown."""
    parts = (_overview, _introduction, _model, _listener, _storage, _commitment, _query, _delivery, _pull, _stow,
             _interfaces, _media, _character_sets, _security, _annexes)  # fmt: skip
    blocks = "\n\n".join(part().strip() for part in parts).split("\n\n")
    return "\n\n".join(map(_filled, blocks)) + "\n"


def _filled(block: str) -> str:
    """A paragraph or a list with lines of even length; tables and headings as they are."""
    if block.startswith(("|", "#")):
        return block
    items = block.replace("\n- ", "\0- ").split("\0")
    return "\n".join(
        textwrap.fill(
            " ".join(item.split()), 118, subsequent_indent="  " if item.startswith("- ") else "",
            break_long_words=False, break_on_hyphens=False,
        )
        for item in items
    )  # fmt: skip


def _table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    lines += [f"| {' | '.join(str(cell).replace('|', '/') for cell in row)} |" for row in rows]
    return "\n".join(lines)


def _statuses(title: str, when: Mapping[Any, str]) -> str:
    """A table of statuses or reasons: value, name in the code's enumeration, and when it is given."""
    return _table(
        (title, "meaning", "when"),
        [(f"{int(status):04X}H", status.name.replace("_", " ").lower(), why) for status, why in when.items()],
    )


def _uids(title: str, uids: Iterable[str]) -> str:
    return _table((title, "UID"), [(_uid_name(uid), f"`{uid}`") for uid in uids])


def _uid_name(uid: str) -> str:
    name = sop_class_name(uid)
    return transfer_syntax_name(uid) if name == uid else name


def _element(keyword: str) -> str:
    tag = tag_for_keyword(keyword) or 0
    return f"{dictionary_description(tag)} ({tag >> 16:04X},{tag & 0xFFFF:04X})"


def _overview() -> str:
    rows = [
        (sop_class_name(one.sop_class_uid), f"`{one.sop_class_uid}`", "yes" if one.scu else "no",
         "yes" if one.scp else "no")
        for one in SERVICES
    ]  # fmt: skip
    rows.append((f"Storage: the {len(STORAGE_SOP_CLASSES)} SOP Classes of 4.2.1.5", "see there", "yes", "yes"))
    return f"""
# DICOM Conformance Statement of the IAP node

Printed by `python -m iap_node.conformance` from the tables that the program works by.
`tests/unit/test_conformance.py`
fails when it is not current, `tests/integration/listener/test_conformance.py` when a running listener does otherwise.

## 1 Overview

The IAP node receives instances, keeps them, judges MR series by their pixels, compares that with their headers, and
sends each series where it fits. It can be asked what it holds, promises what it has taken, and pulls from archives.

{_table(("network service", "UID", "SCU", "SCP"), rows)}

It reads media (DICOMDIR) and writes none. As a DICOMweb origin server it has the Store transaction (STOW-RS, see 4.2.4)
and no other. As a user agent DELIVERY stores by POST to `studies` (STOW-RS, PS3.18 section 10.5): `multipart/related;
type="application/dicom"`, SOP Classes and transfer syntaxes as received, answers as `application/dicom+json`; bearer
token and client certificate where `destinations` names them. What an origin server refuses for its transfer syntax
(415, or failure reason C122H) is stored once more in Explicit VR Little Endian, as 4.2.2.1 says."""


def _introduction() -> str:
    return """
## 2 Introduction

For who integrates the node: PS3.2, PS3.4, PS3.7, PS3.8 and PS3.15 are taken as known. Keys such as
`listener.max_associations` are those of `config.yaml`, which documents each. Conformance to the standard does not
by itself make two products work together; the partners that the node is tested with are Orthanc, DCMTK and pynetdicom
(`tests/integration/partners`, `tests/integration/listener`)."""


def _model() -> str:
    return f"""
## 3 Implementation model

- **{LISTENER}** receives instances, answers verification, queries and storage commitment requests. It may be several
  processes on one port (`listener.processes`), which look like one Application Entity.
- **{DELIVERY}** sends the instances of a judged series to the destinations of its route, once each.
- **{PULL}** asks an archive for series, has them sent, and leaves out what is here already.

{DELIVERY} and {PULL} have the calling AE title of `destinations.*.calling_ae_title` and `sources.*.calling_ae_title`.

All three announce Implementation Class UID `{IMPLEMENTATION_CLASS_UID}`, Implementation Version Name
`{IMPLEMENTATION_VERSION_NAME}`, Application Context Name `1.2.840.10008.3.1.1.1`."""


def _listener() -> str:
    config = ListenerConfig()
    reasons = [(reason.name.replace("_", " ").lower(), *reason.value) for reason in RejectReason]
    return f"""
## 4 Networking

### 4.2.1 {LISTENER}

#### 4.2.1.1 Association policies

- At most {config.max_associations} associations at once (`listener.max_associations`),
  {config.max_associations_per_peer}
  of one peer (`listener.max_associations_per_peer`).
- Asynchronous operations are not negotiated; a second request that comes before the answer to the first is answered
  after it.
- Maximum PDU size announced: {config.max_pdu_bytes} bytes (`listener.max_pdu_bytes`); larger PDUs are taken.
- Extended negotiation: relational queries (PS3.4 C.5.1.1) are accepted for Study Root FIND. User identity
  negotiation is
  not supported; SOP Class common extended negotiation needs no answer and gets none.
- An association that is silent for {config.idle_timeout_s:g} s (`listener.idle_timeout_s`), or slower than
  `listener.min_bytes_per_s`, is aborted.

#### 4.2.1.2 Initiation of associations

Only to report storage commitment, see 4.2.1.6: it proposes the Storage Commitment Push Model with the role of an SCP.

#### 4.2.1.3 Acceptance of associations

By address (`listener.addresses`), calling AE title (`listener.calling_ae_titles`) and, where that is asked for,
called AE
title (`listener.require_called_ae_title`). By default only this machine may send. Rejections:

{_table(("reason", "result", "source", "reason/diag."), reasons)}

#### 4.2.1.4 Presentation contexts of services

{_uids("SOP Class", (service.sop_class_uid for service in SERVICES if service.scp))}

in these transfer syntaxes, the first proposed one being chosen (Verification: in any of 4.2.1.5):

{_uids("transfer syntax", SERVICE_TRANSFER_SYNTAXES)}"""


def _storage() -> str:
    config = ListenerConfig()
    statuses = {
        StoreStatus.SUCCESS: "the bytes and all that their row is made of are on the disk",
        StoreStatus.OUT_OF_RESOURCES: "disk low, or disk or database fail: send again later",
        StoreStatus.SOP_CLASS_MISMATCH: "the data set is of another class or instance than the request: quarantined",
        StoreStatus.CANNOT_UNDERSTAND: "not identifiable: quarantined; or larger than `listener.max_instance_mb`",
        StoreStatus.PROCESSING_FAILURE: "an error of ours, in the log: send again later",
    }
    storage = [
        (sop_class_name(uid), f"`{uid}`", "yes" if uid in MR_IMAGE_SOP_CLASSES else "kept only")
        for uid in STORAGE_SOP_CLASSES
    ]
    return f"""
#### 4.2.1.5 Storage as an SCP

Level 2 (full): every element is kept, private ones included, and the data set to the bit; nothing is coerced. Success
means durable (`spool.durability: strict`; with `relaxed` a power cut may take the last seconds). The same instance
sent
again changes nothing. Other bytes under a known SOP Instance UID are kept aside as a conflict and never take the
place of
the first ones; the sender is answered Success. Instances stay until `retention` says otherwise, which by default is
never.
Instances of up to {config.max_instance_mb} MiB are taken (`listener.max_instance_mb`).

{_statuses("status", statuses)}

Storage SOP Classes, each accepted in every transfer syntax below. Private ones, and ones newer than this
table, are accepted as well: they can only be meant as storage. Objects without a patient (hanging protocols, colour
palettes, implant templates, defined procedure protocols, inventories) are not.

{_table(("storage SOP Class", "UID", "analysed"), storage)}

The first proposed transfer syntax of this table is chosen; private and newer ones are accepted where none of it is
proposed.

{_uids("storage transfer syntax", TRANSFER_SYNTAXES)}"""


def _commitment() -> str:
    config = StorageCommitmentConfig()
    failures = {
        FailureReason.PROCESSING_FAILURE: "the requestor sent other bytes than those that are archived, and its "
        "own are here no more",
        FailureReason.NO_SUCH_OBJECT_INSTANCE: "never received, or its bytes are gone",
        FailureReason.CLASS_INSTANCE_CONFLICT: "here, but of another SOP Class",
        FailureReason.SOP_CLASS_NOT_SUPPORTED: "not here, and no storage SOP Class",
        FailureReason.DUPLICATE_TRANSACTION_UID: "the requestor waits for the report of another request of this UID",
    }
    statuses = {
        ActionStatus.SUCCESS: "the request is kept and survives a restart",
        ActionStatus.PROCESSING_FAILURE: "the Action Information cannot be read",
        ActionStatus.NO_SUCH_SOP_INSTANCE: "not the well-known SOP Instance",
        ActionStatus.MISSING_ARGUMENT: "no Transaction UID or no Referenced SOP Sequence",
        ActionStatus.INVALID_ARGUMENT: "something in it is no UID",
        ActionStatus.NO_SUCH_ACTION: "an Action Type ID other than 1",
        ActionStatus.RESOURCE_LIMITATION: "the database does not work: ask again later",
    }
    return f"""
#### 4.2.1.6 Storage Commitment Push Model as an SCP

Committed means what Success means: the archive has the instance with this SOP Class, and its bytes are on the disk.
It is no promise against `retention`: where that is switched on, committed instances go as others do, after judgement
and delivery. Instances of Storage Media File-Sets and Retrieve AE Titles are not told. A request may hold
{MAX_COMMITMENT_BYTES // 1024**2} MiB, some twenty thousand instances.

{_statuses("N-ACTION status", statuses)}

The report (N-EVENT-REPORT, Event Type ID 1 or 2) goes on the association of the request while that is open
(`storage_commitment.same_association`), else on a new one to the address of the requestor's AE title in
`storage_commitment.requestors`, where we propose the SCP role by role selection and go on where it is not answered. A
failure is not reported earlier than {config.patience_s:g} s after the request (`patience_s`). A report that is not
taken is
repeated, at intervals of {config.backoff_s:g} s to {config.backoff_max_s:g} s, for {config.expire_h:g} h
(`expire_h`); it
may therefore come twice. The same request, repeated, is one.

{_statuses("Failure Reason (0008,1197)", failures)}"""


def _query() -> str:
    keys = "\n\n".join(
        f"Keys at {level} level, and at those below:\n\n"
        + _table(
            ("element", "type", "matching"),
            [(_element(key.keyword), key.kind.value, key.matching.value) for key in KEYS if key.level is level],
        )
        for level in Level
    )
    statuses = {
        FindStatus.SUCCESS: "no more matches",
        FindStatus.PENDING: "a match",
        FindStatus.PENDING_KEYS_NOT_SUPPORTED: "a match; an optional key with a value was not matched",
        FindStatus.CANCEL: "after C-CANCEL",
        FindStatus.OUT_OF_RESOURCES: f"after {QueryConfig().max_results} matches (`query.max_results`), or the "
        "database does not work",
        FindStatus.IDENTIFIER_MISMATCH: "a value is none of its key, or the key is not kept here (Offending Element)",
        FindStatus.UNABLE_TO_PROCESS: "the identifier cannot be read",
    }
    return f"""
#### 4.2.1.7 Study Root Query/Retrieve Information Model - FIND as an SCP

Every query is relational. What is found are instances whose bytes are here. Matching heeds case; several values of a
key mean any of them; ranges find only dates that are dates. There is no retrieval: Retrieve AE Title is returned
empty.

**Not conforming to PS3.4 C.6.2.1 in this:** patients are kept as keyed hashes, and some required keys are not kept
at all.
These are returned empty, and a query with a value for one of them is refused with
{int(FindStatus.IDENTIFIER_MISMATCH):04X}H, since to ignore it would answer a question about one patient with all:
{", ".join(map(_element, NOT_KEPT))}.

{keys}

{_statuses("status", statuses)}"""


def _delivery() -> str:
    options = _table(
        ("`retain`", "option", "code (DCM)"),
        [(option.value, METHOD_CODES[OPTION_CODES[option]], OPTION_CODES[option]) for option in Retained],
    )
    taken = [
        (sop_class_name(uid), f"`{uid}`", "unless burned in" if uid in ACQUIRED else "where not burned in")
        for uid in STORAGE_SOP_CLASSES
        if uid in ACQUIRED | ACQUIRED_IF_NOT_BURNED_IN
    ]
    return f"""
### 4.2.2 {DELIVERY}

Storage as an SCU, Verification as an SCU. One association per series and destination; a further one where more than
{MOST_CONTEXTS} presentation contexts are needed, or where the peer aborted. It proposes one presentation context for
each pair of SOP Class and transfer syntax that occurs, whatever they are, and beside these one for each SOP Class in
Explicit and one in Implicit VR Little Endian. The data set is sent as it was received, to the bit, wherever its
transfer syntax is accepted; else in the first of the two that is, under the same SOP Instance UID, see 4.2.2.1. With
`transcode: never` there is no second form.
With `send: corrected` copies are sent where a person has accepted other header values: new SOP, Series and
Study
Instance UIDs, and what was written in the Original Attributes Sequence (0400,0561). Warnings (Bxxx) count as
accepted;
A9xx, Cxxx and 0117H, 0122H, 0124H, 0211H, 0212H as final; everything else is tried again. It accepts no
associations.

With `results: true` one Comprehensive SR (TID 1500) follows in Implicit VR Little Endian when the destination has
accepted all instances of a revision, over an association of its own. It takes Patient and General Study from the
instances, refers to them as its evidence, has one series for each series of images, and the same UID whenever it says
the same. A refusal is told and not tried again. Codes beyond DCM, SCT and UCUM have the scheme 99IAP
(`docs/decisions/0021-results-as-dicom.md`).

#### 4.2.2.1 Transcoding of transfer syntaxes

From the uncompressed transfer syntaxes, from Deflated Explicit VR Little Endian, and from those below, to Explicit and
Implicit VR Little Endian; SOP Instance UIDs are used again. Pixel data are decoded to the bit; where they were
compressed with losses, as any decoder does, and Lossy Image Compression (0028,2110) says so. Colour becomes RGB where
JPEG with losses or JPEG 2000 transformed it, Planar Configuration 0. An Icon Image Sequence with compressed pixels is
left out. What is in none of them, or has other than 1 or 3 samples of 8, 16 or 32 bits, is refused for good where the
peer does not take it as it is.

{_uids("decoded transfer syntax", (uid for uid in TRANSFER_SYNTAXES if uid in DECODABLE))}

#### 4.2.2.2 De-identified copies

With `send: deidentified` instances leave by the {METHOD_CODES[PROFILE_CODE]} of PS3.15 E.2, edition
{EDITION}, as a de-identifier; it does not re-identify. Transfer syntaxes stay, 4.2.2.1 applies. UIDs are replaced by
keyed hashes, the same for all deliveries of a node; Patient ID and Patient's Name by a keyed hash of Patient ID and
issuer. Private elements, overlays, curves and elements that PS3.6 does not know are removed. Patient Identity Removed
(0012,0062),
De-identification Method (0012,0063) and Code Sequence (0012,0064), Longitudinal Temporal Information Modified
(0028,0303) and an item of Contributing Equipment Sequence (0018,A001, 109104 DCM) are written. Recognizable visual
features are left. Options by `retain`:

{options}

SOP Classes of which copies are made; the second kind only where Burned In Annotation (0028,0301) is NO, none where it
is YES, where Image Type or Conversion Type speak of a screen, or where an overlay stands in the bits of the pixels. All
other instances are refused for such a destination:

{_table(("copied SOP Class", "UID", "taken"), taken)}"""


def _pull() -> str:
    return f"""
### 4.2.3 {PULL}

Study Root FIND, MOVE and GET as an SCU, started by `iap-node pull` or by a schedule of `sources`. One association to
find the studies, one for each study. It queries at STUDY level (Study Instance UID, Study Date, Patient ID,
Modalities in
Study), SERIES level (Series Instance UID, Modality, Series Description, Number of Series Related Instances) and,
where
a part of a series is here, IMAGE level (SOP Instance UID); it retrieves at SERIES level, or at IMAGE level what is
missing,
a hundred instances at a time. The destination of C-MOVE is `listener.ae_title`, which the archive must know.
C-CANCEL is
not sent.

With `retrieve: get` it proposes the SCP role for the storage SOP Classes below, files what comes as {LISTENER} does,
and
answers with the statuses of 4.2.1.5. Each SOP Class that is analysed has a presentation context for each of these
transfer
syntaxes, each other one has a context for all:

{_uids("transfer syntax of C-GET", GET_TRANSFER_SYNTAXES)}

{_uids("SOP Class of C-GET", GET_SOP_CLASSES)}"""


def _stow() -> str:
    stow = StowConfig()
    codes = {
        HTTPStatus.OK: "all is stored, and would be after a power cut",
        HTTPStatus.ACCEPTED: "some is stored, some failed",
        HTTPStatus.BAD_REQUEST: "no boundary, no part, or the body ends or breaks within one; what came whole before "
        "is stored, and told where there is any",
        HTTPStatus.UNAUTHORIZED: "no token that is valid",
        HTTPStatus.FORBIDDEN: "a token of another scope",
        HTTPStatus.NOT_FOUND: "`web.stow.enabled` is false",
        HTTPStatus.NOT_ACCEPTABLE: "`Accept` without `application/dicom+json`",
        HTTPStatus.REQUEST_TIMEOUT: "silent for `listener.idle_timeout_s`, or slower than `listener.min_bytes_per_s`",
        HTTPStatus.CONFLICT: "nothing is stored, and some of it would fail again",
        HTTPStatus.LENGTH_REQUIRED: "neither Content-Length nor a chunked body",
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE: f"more than {stow.max_request_mb} MiB (`web.stow.max_request_mb`), more "
        f"than {MOST_PARTS} instances, or one far beyond `listener.max_instance_mb`",
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE: 'not `multipart/related; type="application/dicom"`, or Content-Encoding',
        HTTPStatus.SERVICE_UNAVAILABLE: "disk low, database away, or as many requests under way as may be "
        f"({stow.max_requests}, `web.stow.max_requests`): send again after `Retry-After`",
    }
    reasons = {
        StoreStatus.OUT_OF_RESOURCES: "disk low, or disk or database fail: send again later",
        STUDY_MISMATCH: "of another study than the path names; not kept",
        StoreStatus.CANNOT_UNDERSTAND: "not identifiable: quarantined; larger than `listener.max_instance_mb`; or a "
        "part that is not `application/dicom`",
    }
    return f"""
### 4.2.4 STOW-RS as an origin server

Off by default (`web.stow.enabled`). `POST {STOW_PREFIX}/studies` and `POST {STOW_PREFIX}/studies/{{study}}` (PS3.18
section 10.5), at `web.bind` and `web.port`, over HTTP/1.1, with TLS where `web.certificate` is set. A bearer token of
the scope `store` says who sends; its name counts as calling AE title. `multipart/related; type="application/dicom"`
is taken, not metadata with bulk data, not XML; instances of any SOP Class that have a study and a series, in any
transfer syntax. What happens to one is as in 4.2.1.5: it is kept to the bit, the same again changes nothing, other
bytes under a known UID are kept aside and answered as stored.

The answer is a Store Instances Response in `application/dicom+json`, Retrieve URLs empty; before an instance is spoken
of, `application/problem+json`. A part that tells no SOP Instance UID stands in Other Failures Sequence (0008,119A).

{_table(("status", "meaning", "when"), [(int(code), code.phrase, why) for code, why in codes.items()])}

{_table(("Failure Reason (0008,1197)", "when"), [(f"{int(reason):04X}H", why) for reason, why in reasons.items()])}"""


def _interfaces() -> str:
    config = ListenerConfig()
    return f"""
### 4.3 Network interfaces

TCP over IPv4 and IPv6. {LISTENER} binds `listener.bind` (by default {config.bind}) and `listener.port`
({config.port}).

### 4.4 Configuration

AE titles, addresses and limits are those of `config.yaml`, read at the start of each process. `iap-node
check-config` says
what is wrong with it. Local AE title: `listener.ae_title` ({config.ae_title}). Remote ones: `destinations`,
`sources`,
`storage_commitment.requestors`, `listener.calling_ae_titles`."""


def _media() -> str:
    return """
## 5 Media interchange

File-Set Reader: `iap-node import` takes a DICOMDIR of the Basic Directory IOD, of any application profile, and files
what
its records refer to, whatever their kind. Files outside of its folder are refused. It takes folders, zips and single
files with or without file meta information as well. No media are written."""


def _character_sets() -> str:
    return """
## 6 Character sets

Data sets are kept with whatever Specific Character Set (0008,0005) they have; those of PS3.3 C.12.1.1.2 are decoded,
code extensions included. Query responses are in ISO_IR 192 where a value is not ASCII, else in the default
repertoire."""


def _security() -> str:
    return f"""
## 7 Security

- TLS 1.2 or newer for every AE (PS3.15 B.9, Non-Downgrading BCP 195), with the cipher suites of the system's
  OpenSSL; where
  `peer_ca` is set, peers must show a certificate that it signed. Without certificates in the configuration: plain
  TCP.
- {LISTENER} admits by address, AE title and certificate, see 4.2.1.3. User identity is not negotiated.
- Patients appear in no log, file name, row or metric; a keyed hash tells them apart.
- What peers may send is bounded in size, number and time; what cannot be identified goes to a quarantine."""


def _annexes() -> str:
    rows = [
        (_element(one.keyword) if tag_for_keyword(one.keyword) else f"{one.title}, computed", one.unit or "")
        for one in PARAMETERS.values()
    ]
    return f"""
## 8 Annexes

### 8.1 Attributes that are judged

Read from the headers of MR images, classic and enhanced, and compared with what the pixels say:

{_table(("element", "unit"), rows)}

### 8.2 Private attributes, private SOP Classes, private transfer syntaxes

None are made. Those that are received are kept and sent on.

### 8.3 Coding schemes

None are extended."""
