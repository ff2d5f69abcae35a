"""Nobody fills memory or disk by long requests, least of all without an account."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator

import pytest
from starlette.testclient import TestClient

from iap_node.web.bodies import MOST_BYTES


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(
    ("path", "kind"),
    [("/sign-in", "application/x-www-form-urlencoded"), ("/api/v1/jobs/retry", "application/json")],
)
def test_long_requests_end_early_and_are_told(
    client: Callable[[], TestClient], path: str, kind: str, chunked: bool
) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(MOST_BYTES // 65_536 + 1):
            yield b"x" * 65_536

    content = pieces() if chunked else b"".join(pieces())
    answer = client().post(path, content=content, headers={"content-type": kind})
    assert answer.status_code == 413, answer.text
    assert "a request may carry" in answer.text


def test_files_are_no_way_around(client: Callable[[], TestClient], monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []
    write = tempfile.SpooledTemporaryFile.write

    def counted(file: tempfile.SpooledTemporaryFile[bytes], piece: bytes) -> int:
        written.append(len(piece))
        return write(file, piece)

    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "write", counted)
    answer = client().post("/sign-in", files={"file": ("a", b"x" * 8 * MOST_BYTES)})
    assert answer.status_code == 413
    assert sum(written) <= MOST_BYTES
