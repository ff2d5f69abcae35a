"""`remote`: what another node's API offers, from a terminal; nothing of a node needs to be on this machine.

The other node says itself what it offers (`/api/v1/openapi.json`): which of the values that are given belong to the
query and which to the body, and what a path is near to. Any operation of any version can be asked for.
"""

from __future__ import annotations

import ipaddress
import json
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import typer

from iap_node.cli.exits import Exit
from iap_node.cli.output import complain, print_json, print_table
from iap_node.config.section import did_you_mean
from iap_node.errors import ConfigError, PermanentError

if TYPE_CHECKING:  # not needed by other commands
    import httpx2

METHODS = ("get", "post", "put")
PREFIX = "/api/v1"
TIMEOUT_S = 60.0
_PIECE = re.compile(r"\{[^{}]*\}")


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of the API: a method of a path, and which values its query takes."""

    method: str
    path: str  # below /api/v1, with {names}
    summary: str
    query: tuple[str, ...]

    def matches(self, path: str) -> bool:
        """Whether a path is one of these."""
        pattern = "".join(
            "[^/]+" if _PIECE.fullmatch(piece) else re.escape(piece) for piece in re.split(r"(\{[^{}]*\})", self.path)
        )
        return re.fullmatch(pattern, path) is not None


def add_to(app: typer.Typer) -> None:
    """Register the command of this module."""
    app.command("remote")(remote)


def remote(
    method: str = typer.Argument("", metavar="[get|post|put]", help="Without one, the operations are listed."),
    path: str = typer.Argument("", metavar="[PATH]", help="Below /api/v1: /series, /jobs/retry."),
    values: list[str] = typer.Argument(None, metavar="[KEY=VALUE]...", help="JSON, or a text as it stands."),
    url: str = typer.Option(..., "--url", envvar="IAP_NODE_URL", help="Of the console: https://node.hospital:8443."),
    token_file: Path | None = typer.Option(
        None, "--token-file", envvar="IAP_NODE_TOKEN_FILE", help="Holds a token of `iap-node tokens add`, or of Admin."
    ),
    ca: Path | None = typer.Option(None, "--ca", help="PEM file of the authority that signed the node's certificate."),
    every: bool = typer.Option(False, "--all", help="All pages of a list, a line of JSON for each item."),
    out: Path | None = typer.Option(None, "--out", help="Write the answer there: an archive, an image, a report."),
) -> None:
    """Ask another node by its API, or have it do something: `iap-node remote get /series state=judged`.

    Prints what the node answers. Exit code 1 when it refuses, 4 when it knows no such thing.
    """
    from iap_node.routing.destinations.https import client

    base = _checked_url(url)
    token = _token(token_file)
    with client(TIMEOUT_S, ca) as one:
        one.headers["Authorization"] = f"Bearer {token}"
        operations = _operations(one, base)
        if not method:
            rows = [(each.method.upper(), each.path, each.summary, ", ".join(each.query)) for each in operations]
            print_table(f"What {base} offers below {PREFIX}", ("Method", "Path", "What", "Query"), rows, "Nothing.")
            return
        operation = _chosen(operations, method.lower(), path)
        query, body = _sorted(operation, values or [])
        if every:
            for item in _items(one, base, operation, path, query):
                print(json.dumps(item))
            return
        answer = one.request(
            method.upper(), base + PREFIX + quote(path), params=query, json=body if operation.method != "get" else None
        )
        _check(answer)
        _show(answer, out)


def _checked_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("https", "http") or not parts.hostname or parts.query or parts.path.strip("/"):
        raise ConfigError(f"--url is https://HOST:PORT of the console, not {url!r}")
    if parts.scheme == "http" and not _is_here(parts.hostname):
        raise ConfigError("a token is shown to this machine alone without TLS; let --url begin with https://")
    return f"{parts.scheme}://{parts.netloc}"


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _token(path: Path | None) -> str:
    if path is None:
        raise ConfigError("name the file of a token: --token-file, or IAP_NODE_TOKEN_FILE")
    try:
        return path.read_text("ascii").strip()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} holds no token ({error}); `iap-node tokens add` makes one") from error


def _operations(one: httpx2.Client, base: str) -> list[Operation]:
    answer = one.get(f"{base}{PREFIX}/openapi.json")
    _check(answer)
    try:
        paths = answer.json()["paths"]
        return [
            Operation(
                method, path.removeprefix(PREFIX), str(told.get("summary", "")),
                tuple(each["name"] for each in told.get("parameters", ()) if each["in"] == "query"),
            )
            for path, methods in paths.items() if path.startswith(f"{PREFIX}/")
            for method, told in methods.items() if method in METHODS
        ]  # fmt: skip
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise PermanentError(f"{base} is no IAP node: its {PREFIX}/openapi.json cannot be read") from error


def _chosen(operations: list[Operation], method: str, path: str) -> Operation:
    """The operation of a path; of several that fit, the one with the fewest {names}."""
    if method not in METHODS:
        raise typer.BadParameter(f"{method!r} is none of {', '.join(METHODS)}")
    fitting = [each for each in operations if each.method == method and each.matches(path)]
    if not fitting:
        near = did_you_mean(path, [each.path for each in operations if each.method == method])
        raise typer.BadParameter(f"the node has no {method.upper()} {path}{near}; `iap-node remote` lists what it has")
    return min(fitting, key=lambda each: each.path.count("{"))


def _sorted(operation: Operation, values: list[str]) -> tuple[dict[str, list[str]], dict[str, Any]]:
    """Which values go into the query, and which into the body."""
    query: dict[str, list[str]] = {}
    body: dict[str, Any] = {}
    for value in values:
        key, mark, text = value.partition("=")
        if not mark:
            raise typer.BadParameter(f"{value!r} is not KEY=VALUE")
        if key in operation.query:
            query.setdefault(key, []).append(text)
        elif operation.method == "get":
            raise typer.BadParameter(f"{operation.path} takes no {key!r}{did_you_mean(key, operation.query)}")
        else:
            body[key] = _value(text)
    return query, body


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _items(
    one: httpx2.Client, base: str, operation: Operation, path: str, query: Mapping[str, list[str]]
) -> Iterator[Any]:
    """All items of a list, page by page."""
    if "cursor" not in operation.query:
        raise typer.BadParameter(f"{operation.path} is no list with pages; leave --all away")
    cursor: dict[str, list[str]] = {}
    while True:
        answer = one.get(base + PREFIX + quote(path), params={**query, **cursor})
        _check(answer)
        page = answer.json()
        yield from page["items"]
        if page["next"] is None:
            return
        cursor = {"cursor": [str(page["next"])]}


def _check(answer: httpx2.Response) -> None:
    """End with what the node says against it."""
    if answer.is_success:
        return
    try:
        told = answer.json()
        why = f"{told['title']}: {told['detail']}" if told.get("detail") else str(told["title"])
    except (ValueError, LookupError, TypeError, AttributeError):
        why = answer.reason_phrase
    complain(f"{answer.status_code} {why}")
    raise typer.Exit(Exit.NOT_FOUND if answer.status_code == 404 else Exit.FAILED)


def _show(answer: httpx2.Response, out: Path | None) -> None:
    is_json = answer.headers.get("content-type", "").partition(";")[0].endswith("json")
    if out is not None:
        out.write_bytes(answer.content)
    elif is_json:
        print_json(answer.json())
    elif sys.stdout.isatty() and not answer.headers.get("content-type", "").startswith("text/csv"):
        raise typer.BadParameter("the answer is a file; name one by --out")
    else:
        sys.stdout.buffer.write(answer.content)
