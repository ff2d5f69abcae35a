"""Object storage as a destination: each instance an object, named by a template, there whole or not at all.

By fsspec and its implementations for S3 and Google Cloud Storage, which are not installed by default (extra
`object-storage`). Written block by block; an upload that ends early is thrown away and not left as half an object.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import structlog

from iap_node.config.destinations import ObjectStorageConfig
from iap_node.config.secret import read_secret
from iap_node.errors import ConfigError, DeliveryError
from iap_node.records import InstanceDelivery
from iap_node.routing.destinations.names import file_name
from iap_node.routing.destinations.outgoing import (
    NotReadable,
    OutgoingInstance,
    delivered,
    file_chunks,
    header_of,
    refused,
    unanswered,
)

# What the implementations raise beside OSError; looked up where they are loaded, so that none is required.
_FOREIGN_ERRORS = (
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
    ("aiohttp", "ClientError"),
    ("gcsfs.retry", "HttpError"),
    ("google.auth.exceptions", "GoogleAuthError"),
)

log = structlog.get_logger("destination")


class ObjectStorageDestination:
    """Writes objects below one prefix of a bucket."""

    def __init__(self, config: ObjectStorageConfig) -> None:
        self._config = config

    def send(self, instances: Sequence[OutgoingInstance]) -> list[InstanceDelivery]:
        """Write instances; those that are there already, byte for byte, count as delivered.

        Raises
        ------
        ConfigError
            The extra is not installed, or the file of options cannot be used.
        """
        storage, root = self._open()
        answers: list[InstanceDelivery] = []
        why_not = ""
        for instance in instances:
            try:
                answer = (
                    unanswered(instance, why_not)
                    if why_not
                    else _deliver(storage, self._name(root, instance), instance)
                )
            except NotReadable as error:
                answer = error.answer
            except _errors() as error:
                why_not = f"not written: {_reason(error)}"
                answer = unanswered(instance, why_not)
                log.warning("object storage cannot be written", url=self._config.url, error=why_not)
            answers.append(answer)
        return answers

    def echo(self) -> None:
        """Ask for the bucket; whether objects may be written is seen when one is.

        Raises
        ------
        DeliveryError
            It is not there or does not let us in.
        ConfigError
            See `send`.
        """
        storage, root = self._open()
        try:
            storage.info(root if root.startswith("/") else root.split("/", 1)[0])
        except _errors() as error:
            raise DeliveryError(f"{self._config.url} cannot be reached: {_reason(error)}") from error

    def _open(self) -> tuple[Any, str]:
        try:
            from fsspec.core import url_to_fs

            storage, root = url_to_fs(
                self._config.url, skip_instance_cache=True, use_listings_cache=False, **self._options()
            )
        except ImportError as error:
            raise ConfigError(
                f"{self._config.url} needs a package that is not installed; pip install iap-node[object-storage]"
            ) from error
        return storage, str(root)

    def _options(self) -> dict[str, Any]:
        path = self._config.options_file
        if path is None:
            return {}
        try:
            options = json.loads(read_secret(path, "options_file"))
        except ValueError as error:
            raise ConfigError(f"options_file: {path} is not JSON") from error
        if not isinstance(options, dict):
            raise ConfigError(f"options_file: {path} holds no JSON object")
        return options

    def _name(self, root: str, instance: OutgoingInstance) -> str:
        return f"{root.rstrip('/')}/{file_name(self._config.template, header_of(instance))}"


def _deliver(storage: Any, name: str, instance: OutgoingInstance) -> InstanceDelivery:
    try:
        with storage.open(name, "rb") as stream:
            same = all(stream.read(len(chunk)) == chunk for chunk in file_chunks(instance)) and not stream.read(1)
    except FileNotFoundError:
        _write(storage, name, file_chunks(instance))
        return delivered(instance)
    if same:
        return delivered(instance, "was there already")
    return refused(instance, "something else stands under its name; move it away, then retry")


def _write(storage: Any, name: str, chunks: Iterator[bytes]) -> None:
    if name.startswith("/"):  # folders: buckets have none
        storage.makedirs(name.rsplit("/", 1)[0], exist_ok=True)
    target = storage.open(name, "wb", autocommit=False)
    with contextlib.ExitStack() as undo:
        undo.callback(_discard, target)
        for chunk in chunks:
            target.write(chunk)
        target.close()
        undo.pop_all()
    target.commit()


def _discard(target: Any) -> None:
    with contextlib.suppress(*_errors()):
        target.close()
    with contextlib.suppress(*_errors()):
        target.discard()


def _errors() -> tuple[type[BaseException], ...]:
    found = (getattr(sys.modules.get(module), name, None) for module, name in _FOREIGN_ERRORS)
    return (OSError, *(one for one in found if isinstance(one, type)))


def _reason(error: BaseException) -> str:
    """What kind of error it is: its text may hold addresses with signatures."""
    said = getattr(error, "strerror", None) or type(error).__name__
    return f"{said}; check bucket, options_file and what we are allowed there"
