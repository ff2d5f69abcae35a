"""The configuration's `destinations` section: where series can go, one class per kind.

`kind` says which; without it a destination is a DICOM one, as all were once. What each kind does stands in
`iap_node.routing.destinations`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from iap_node.config.notifications import is_this_machine
from iap_node.config.section import Section, did_you_mean
from iap_node.config.tls import TlsConfig

DICOM_KIND = "dicom"
KIND_PROBLEM = "destination_kind"
Copy = Literal["original", "corrected", "deidentified"]
# Options of PS3.15 E.3 that a de-identified copy may have; `iap_node.deidentification.profile` says what each keeps.
Retain = Literal[
    "device_identity", "institution_identity", "patient_characteristics", "full_dates", "modified_dates", "descriptors"
]  # fmt: skip
Transcode = Literal["as_needed", "never"]  # what the peer takes only uncompressed
OBJECT_STORES = ("s3", "gs")  # whose objects appear whole or not at all, as fsspec writes them

# What a template of file names may hold, by DICOM keyword: no free text, where names are found, and no dates.
TEMPLATE_FIELDS = (
    "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID", "Modality", "SeriesNumber",
    "InstanceNumber", "BodyPartExamined", "Manufacturer",
)  # fmt: skip
_FIELD = re.compile(r"\{([^{}]*)\}")
_LITERAL = re.compile(r"[A-Za-z0-9._=+ -]*")


class InstancesConfig(Section):
    """What all destinations have that take instances."""

    send: Copy = "original"
    retain: list[Retain] = []  # of de-identified copies
    results: bool = False  # an SR document of what was found out goes there too, after the instances
    concurrency: int = Field(4, ge=1)  # series under way at once, over all workers

    @model_validator(mode="after")
    def _copies_fit_together(self) -> Self:
        if self.retain and self.send != "deidentified":
            raise ValueError("retain is an option of de-identified copies: set send: deidentified, or leave it out")
        if {"full_dates", "modified_dates"} <= set(self.retain):
            raise ValueError("retain either full_dates or modified_dates")
        if self.results and self.send == "deidentified":
            raise ValueError(
                "results: true and send: deidentified do not go together: an SR document quotes headers and names the "
                "patient; send results to a destination that gets originals"
            )
        return self


class DestinationConfig(InstancesConfig):
    """A C-STORE SCP that takes series."""

    kind: Literal["dicom"] = "dicom"
    ae_title: str = Field(min_length=1, max_length=16)
    host: str
    port: int = Field(ge=1, le=65535)
    calling_ae_title: str = Field("IAP_NODE", min_length=1, max_length=16)
    timeout_s: float = Field(60.0, gt=0)
    transcode: Transcode = "as_needed"
    tls: TlsConfig = TlsConfig()

    @property
    def address(self) -> str:
        """Where it is, for people."""
        return f"{self.ae_title} at {self.host}:{self.port}{', TLS' if self.tls.enabled else ''}"


class FolderConfig(InstancesConfig):
    """A folder that other programs watch, on a disk of this machine or a mounted one."""

    kind: Literal["folder"]
    path: Path
    template: str = "{StudyInstanceUID}/{SeriesInstanceUID}/{SOPInstanceUID}.dcm"

    @field_validator("template")
    @classmethod
    def _stays_below(cls, value: str) -> str:
        return checked_template(value)

    @property
    def address(self) -> str:
        """Where it is, for people."""
        return f"folder {self.path}"


class ResultWebhookConfig(Section):
    """An address to which the result of a series is posted as JSON; no instances go there."""

    kind: Literal["webhook"]
    url: str
    secret_file: Path
    ca: Path | None = None  # None: the system's
    timeout_s: float = Field(60.0, gt=0)
    concurrency: int = Field(4, ge=1)  # series under way at once, over all workers

    @field_validator("url")
    @classmethod
    def _https(cls, value: str) -> str:
        return checked_url(value)

    @property
    def send(self) -> str:
        """What goes there."""
        return "result"

    @property
    def results(self) -> bool:
        """No document goes there: the message tells the same."""
        return False

    @property
    def address(self) -> str:
        """Where it is, for people."""
        return _shown(self.url)


class DicomwebConfig(InstancesConfig):
    """A DICOMweb server that takes series by STOW-RS (PS3.18 section 10.5)."""

    kind: Literal["dicomweb"]
    url: str
    token_file: Path | None = None
    certificate: Path | None = None
    private_key: Path | None = None
    ca: Path | None = None  # None: the system's
    timeout_s: float = Field(60.0, gt=0)
    instances_per_request: int = Field(50, ge=1)
    transcode: Transcode = "as_needed"

    @field_validator("url")
    @classmethod
    def _https(cls, value: str) -> str:
        return checked_url(value)

    @model_validator(mode="after")
    def _certificate_and_key_go_together(self) -> DicomwebConfig:
        if (self.certificate is None) != (self.private_key is None):
            raise ValueError("name both certificate and private_key, or neither")
        return self

    @property
    def address(self) -> str:
        """Where it is, for people."""
        return _shown(self.url)


class ObjectStorageConfig(InstancesConfig):
    """A bucket that takes series as objects; needs the extra `object-storage`."""

    kind: Literal["object-storage"]
    url: str
    options_file: Path | None = None  # None: what the environment of the node says
    template: str = "{StudyInstanceUID}/{SeriesInstanceUID}/{SOPInstanceUID}.dcm"

    @field_validator("url")
    @classmethod
    def _bucket(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in OBJECT_STORES or not parts.hostname or parts.query or parts.username is not None:
            raise ValueError(f"{_shown(value)} is no bucket: write s3://bucket/prefix or gs://bucket/prefix")
        return value

    @field_validator("template")
    @classmethod
    def _stays_below(cls, value: str) -> str:
        return checked_template(value)

    @property
    def address(self) -> str:
        """Where it is, for people."""
        return self.url


KINDS: Mapping[str, type[Section]] = {
    DICOM_KIND: DestinationConfig,
    "folder": FolderConfig,
    "webhook": ResultWebhookConfig,
    "dicomweb": DicomwebConfig,
    "object-storage": ObjectStorageConfig,
}


def _tag(kind: str) -> str:
    return f"({kind})"  # `load_config` leaves such parts out of what it shows as the place of an error


def section_of_kind(part: object) -> type[Section] | None:
    """The section that a part of an error's location stands for; None: it is a key, a name or a number."""
    return next((section for kind, section in KINDS.items() if _tag(kind) == part), None)


def _kind(value: object) -> str | None:
    kind = value.get("kind", DICOM_KIND) if isinstance(value, dict) else getattr(value, "kind", None)
    return _tag(kind) if isinstance(kind, str) and kind in KINDS else None


AnyDestination = Annotated[
    Annotated[DestinationConfig, Tag("(dicom)")]
    | Annotated[FolderConfig, Tag("(folder)")]
    | Annotated[ResultWebhookConfig, Tag("(webhook)")]
    | Annotated[DicomwebConfig, Tag("(dicomweb)")]
    | Annotated[ObjectStorageConfig, Tag("(object-storage)")],
    Discriminator(
        _kind,
        custom_error_type=KIND_PROBLEM,
        custom_error_message=f"kind is none of {', '.join(KINDS)}",
    ),
]


def checked_template(template: str) -> str:
    """A template of file names that cannot lead out of its folder, whatever the instances say.

    Raises
    ------
    ValueError
        It is absolute, has an empty or hidden part, an unknown field, or does not tell instances apart.
    """
    fields = _FIELD.findall(template)
    for field in fields:
        if field not in TEMPLATE_FIELDS:
            raise ValueError(f"{{{field}}} is no field of a template{did_you_mean(field, TEMPLATE_FIELDS)}")
    if "SOPInstanceUID" not in fields:
        raise ValueError("a template needs {SOPInstanceUID}: two instances must not get one name")
    for part in template.split("/"):
        literal = _FIELD.sub("", part)
        if not part or part.startswith(".") or _LITERAL.fullmatch(literal) is None:
            raise ValueError(
                f"{part!r} is no part of a template: letters, digits, '._=+ -' and {{fields}}, no dot at its begin"
            )
    if "SOPInstanceUID" not in _FIELD.findall(template.rsplit("/", 1)[-1]):
        raise ValueError("{SOPInstanceUID} belongs into the template's last part, the file's name")
    return template


def checked_url(url: str) -> str:
    """An address that may be told what a series is: by TLS, or on this machine, and without a password in it.

    Raises
    ------
    ValueError
    """
    parts = urlsplit(url)
    if not parts.hostname or (
        parts.scheme != "https" and not (parts.scheme == "http" and is_this_machine(parts.hostname))
    ):
        raise ValueError("a destination's URL begins with https://")
    if parts.username is not None or parts.password is not None:
        raise ValueError("no user and no password in a URL: they would stand in logs")
    return url


def _shown(url: str) -> str:
    """Without the query, where some put their secrets."""
    return urlsplit(url)._replace(query="", fragment="").geturl()
