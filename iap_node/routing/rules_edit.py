"""config.yaml's `routing` section as text: read, checked, and put back without touching a byte around it.

What is checked is what the running node will load: the section in its place in the file, by `parse_config`. The file
is replaced as a whole (a temporary file beside it, fsync, rename), the one before stays as `config.yaml.before`, and
`rules_file` takes the new one by itself. Called by the console's rule editor.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
import tempfile
import threading
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from iap_node.config import parse_config
from iap_node.config.routing import RoutingConfig
from iap_node.config.section import did_you_mean
from iap_node.errors import ConfigError, PermanentError

KEY = "routing"
MOST_CHARACTERS = 65_536  # of the section: reading YAML is slow, and it is read while somebody types
DEEPEST = 50
BY_HAND = "change the file by hand, and `iap-node replay` shows beforehand what would go elsewhere"

_ends_of_documents = re.compile(r"^(---|\.\.\.)(\s|$)", re.MULTILINE)
_turn = threading.Lock()  # between looking at the file and replacing it


class RulesChanged(PermanentError):
    """The file is no longer the one that was read; nothing was written."""


@dataclass(frozen=True, slots=True)
class RulesText:
    """The section as it stands in the file, its comments included, and the file that it stands in."""

    before: str  # of the file, as far as the section
    section: str
    after: str
    version: str  # of the whole file: SHA-256

    def with_section(self, section: str) -> str:
        """The whole file with another section; its line ends become those of the file."""
        lines = section.replace("\r\n", "\n").replace("\r", "\n").rstrip("\n") + "\n"
        newline = "\r\n" if "\r\n" in self.before + self.after else "\n"
        gap = newline if self.before and not self.before.endswith("\n") else ""
        return self.before + gap + lines.replace("\n", newline) + self.after


def read_rules(path: Path) -> RulesText:
    """The section in a configuration file; `routing: {}` where the file has none.

    Raises
    ------
    ConfigError
        The file cannot be read, or is written in a way in which the section's place is not certain, or the section
        has characters that a page would lose; with what helps.
    """
    text = _located(path)
    _refuse_unseen(text.section)
    return text


def _located(path: Path) -> RulesText:
    try:
        content = path.read_bytes()
        text = content.decode("utf-8")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except OSError as error:
        raise ConfigError(f"{path.name} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path.name} is not YAML ({error}); correct it by hand first") from error
    version = hashlib.sha256(content).hexdigest()
    if root is None:
        return RulesText(text, f"{KEY}: {{}}\n", "", version)
    if not isinstance(root, yaml.MappingNode) or root.flow_style:
        raise ConfigError(f"{path.name} is not written as one section after the other; {BY_HAND}")
    keys = [key for key, _ in root.value]
    places = [number for number, key in enumerate(keys) if key.value == KEY]
    if len(places) > 1 or any(key.start_mark.column for key in keys) or _ends_of_documents.search(text):
        raise ConfigError(f"it is not certain where the section {KEY!r} of {path.name} begins and ends; {BY_HAND}")
    if not places:
        return RulesText(text, f"{KEY}: {{}}\n", "", version)
    (place,) = places
    begin = keys[place].start_mark.index
    end = keys[place + 1].start_mark.index if place + 1 < len(keys) else len(text)
    lines = text[begin:end].splitlines(keepends=True)
    while len(lines) > 1 and (not lines[-1].strip() or lines[-1].startswith("#")):
        lines.pop()  # blank lines, and comments from the first column on, belong to what follows
    end = begin + sum(map(len, lines))
    return RulesText(text[:begin], text[begin:end], text[end:], version)


def checked_rules(
    text: RulesText, section: str, base: Path, destinations: Collection[str]
) -> tuple[RoutingConfig, str]:
    """What the section means, and the whole file with it.

    Parameters
    ----------
    base
        The folder of the file.
    destinations
        Those of the running node, which routes may name.

    Raises
    ------
    ConfigError
        It is not valid, with one line per problem; or the file would say something else besides its routing.
    """
    rules = _parsed(section)
    whole = text.with_section(section)
    content = _loaded(whole)
    own = _loaded(text.before + text.section + text.after)
    if {**own, KEY: rules} != content:
        raise ConfigError(f"with this text the file would say something else beside {KEY!r}; {BY_HAND}")
    routing = parse_config(content, base).routing
    for key, names in routing.destination_names():
        for name in names:
            if name not in destinations:
                raise ConfigError(
                    f"{key}: the running node has no destination {name!r}{did_you_mean(name, destinations)}; "
                    "restart it after adding destinations"
                )
    return routing, whole


def save_rules_text(path: Path, version: str, whole: str) -> None:
    """Replace the file, when it is still the one that was read; it stays as `NAME.before`.

    Raises
    ------
    RulesChanged
        Somebody changed the file meanwhile.
    PermanentError
        The file cannot be replaced here; with what helps.
    """
    path = path.resolve()  # a link stays one
    with _turn:
        try:
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest() != version:
                raise RulesChanged(f"{path.name} was changed since this page was loaded: copy your text, load it again")
            found = path.stat()
            _replace(path.with_name(f"{path.name}.before"), content, found)
            _replace(path, whole.encode("utf-8"), found)
            folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise PermanentError(
                f"{path.name} cannot be replaced ({error.strerror}): let the node's user write into its folder, or "
                f"{BY_HAND}"
            ) from error


def _parsed(section: str) -> Any:
    """The section's content, after a look at what it would cost to read it."""
    if len(section) > MOST_CHARACTERS:
        raise ConfigError(f"the section has {len(section)} characters; the editor takes {MOST_CHARACTERS}; {BY_HAND}")
    _refuse_unseen(section)
    try:
        depth = 0
        for event in yaml.parse(section, Loader=yaml.SafeLoader):
            line = event.start_mark.line + 1 if event.start_mark is not None else 0
            if isinstance(event, yaml.AliasEvent):
                raise ConfigError(f"line {line}: the editor takes no aliases (*name); write it out, or {BY_HAND}")
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
            if depth > DEEPEST:
                raise ConfigError(f"line {line}: nested deeper than {DEEPEST} times")
        root = yaml.compose(section, Loader=yaml.SafeLoader)
        _refuse_twins(root)
        content = yaml.safe_load(section)
    except yaml.MarkedYAMLError as error:
        place = f"line {error.problem_mark.line + 1}: " if error.problem_mark is not None else ""
        raise ConfigError(f"{place}not YAML: {error.problem or error.context}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date that is none
        raise ConfigError(f"not YAML: {error}") from error
    if not isinstance(root, yaml.MappingNode) or list(content) != [KEY] or root.value[0][0].start_mark.column:
        raise ConfigError(f"the text must be the section '{KEY}:' from the first column on, and nothing else")
    return content[KEY]


def _refuse_unseen(text: str) -> None:
    """Tabs, controls and what turns the text beside it around: no page shows them, so nobody could judge them there."""
    for number, line in enumerate(re.split(r"\r\n|\n|\r", text), 1):
        for character in line:
            if not character.isprintable():
                raise ConfigError(
                    f"line {number}: a character that cannot be seen, U+{ord(character):04X}; leave it out, in the file"
                    " too, or write it as an escape in double quotes"
                )


def _refuse_twins(node: yaml.Node | None) -> None:
    """A key that stands twice silently hides its first value: in rules that is a route that nobody sees is gone."""
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_twins(item)
    elif isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise ConfigError(f"line {key.start_mark.line + 1}: the key {key.value!r} stands here twice")
                seen.add(key.value)
            _refuse_twins(value)


def _loaded(text: str) -> dict[str, Any]:
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"the whole file would not be YAML: {error}") from error
    return content if isinstance(content, dict) else {}


def _replace(path: Path, content: bytes, like: os.stat_result) -> None:
    """Put a whole file in the place of another, with the rights of the one before."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            with contextlib.suppress(PermissionError):  # another user's file: it becomes the node's, which reads it
                os.fchown(file.fileno(), like.st_uid, like.st_gid)
            os.fchmod(file.fileno(), stat.S_IMODE(like.st_mode))
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
