"""`multipart/related` (RFC 2387) as it comes in: each part handed on while it comes, none of it kept.

python-multipart knows the boundaries (RFC 2046 section 5.1, which all multipart types share); this says what a part
is. Called by `store`.
"""

from __future__ import annotations

from email.message import Message
from typing import Protocol

from python_multipart.exceptions import ParseError
from python_multipart.multipart import MultipartParser

APPLICATION_DICOM = "application/dicom"
MOST_PARTS = 10_000  # of one request: the answer names each
MOST_BOUNDARY = 200  # characters; RFC 2046 section 5.1.1 allows 70, Orthanc writes 73
# PS3.18 8.7.2: those of a part that mean that its bytes are what they are.
_AS_IS = frozenset({"", "binary", "8bit", "7bit"})


class Parts(Protocol):
    """Who takes the parts."""

    def begin_part(self) -> None:
        """A part begins that is a DICOM file."""

    def write(self, piece: memoryview) -> None:
        """So much of it came; good until this returns."""

    def end_part(self) -> None:
        """It came whole, or was refused."""

    def refuse_part(self, why: str) -> None:
        """A part begins that is none; `write` and `end_part` follow all the same."""


class NotMultipart(Exception):
    """It is not what its Content-Type says, or was cut off."""


class TooManyParts(Exception):
    """More than an answer can speak of."""


def media_type(header: str) -> tuple[str, dict[str, str]]:
    """A Content-Type (RFC 9110 section 8.3): the type in lower case, and its parameters; ("", {}) where it is none."""
    message = Message()
    message["Content-Type"] = header.replace("\r", " ").replace("\n", " ")
    kind = header.partition(";")[0].strip().lower()
    parameters = message.get_params([], unquote=True)
    return (kind, {str(name).lower(): str(value) for name, value in parameters[1:]}) if kind else ("", {})


class RelatedParser:
    """Reads one request.

    Parameters
    ----------
    boundary
        Of the request's Content-Type.

    Raises
    ------
    NotMultipart
        There can be no such boundary.
    """

    def __init__(self, boundary: str, parts: Parts) -> None:
        if not 0 < len(boundary) <= MOST_BOUNDARY or not boundary.isascii() or not boundary.isprintable():
            raise NotMultipart(f"Content-Type names no boundary of 1 to {MOST_BOUNDARY} ASCII characters")
        self._parts = parts
        self._n_parts = 0
        self._headers: dict[bytes, bytes] = {}
        self._name, self._value = b"", b""
        self.ended = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._on_part_begin,
                "on_header_field": self._on_header_field,
                "on_header_value": self._on_header_value,
                "on_header_end": self._on_header_end,
                "on_headers_finished": self._on_headers_finished,
                "on_part_data": self._on_part_data,
                "on_part_end": parts.end_part,
                "on_end": self._on_end,
            },
        )

    def write(self, piece: bytes) -> None:
        """So much of the body came.

        Raises
        ------
        NotMultipart, TooManyParts
        PeerOutOfBounds
            Of `Parts.write`.
        """
        try:
            self._parser.write(piece)
        except ParseError as error:
            raise NotMultipart(f"the body is no multipart/related of this boundary: {str(error)[:200]}") from error

    def _on_part_begin(self) -> None:
        self._n_parts += 1
        if self._n_parts > MOST_PARTS:
            raise TooManyParts(f"a request may have {MOST_PARTS} instances; send the others in another one")
        self._headers = {}

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        self._headers.setdefault(self._name.lower(), self._value.strip())
        self._name, self._value = b"", b""

    def _on_headers_finished(self) -> None:
        kind, _ = media_type(self._headers.get(b"content-type", APPLICATION_DICOM.encode()).decode("latin-1"))
        encoding = self._headers.get(b"content-transfer-encoding", b"").decode("latin-1").lower()
        if kind != APPLICATION_DICOM:
            self._parts.refuse_part(f"a part is {kind[:64] or 'of no type'!r}; only application/dicom is taken")
        elif encoding not in _AS_IS or b"content-encoding" in self._headers:
            self._parts.refuse_part("a part is encoded; send its bytes as they are")
        else:
            self._parts.begin_part()

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._parts.write(memoryview(data)[start:end])

    def _on_end(self) -> None:
        self.ended = True
