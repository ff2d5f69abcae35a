"""Spellings that mean the same: of manufacturers, models, scan options and protocols.

One scanner writes itself in several ways: `Skyra`, `MAGNETOM Skyra`, `SKYRA`; `SIEMENS`, `Siemens Healthineers`. What
differs by case, white space and punctuation only, or by the maker's name before the model's, is known to be the same.
The rest is learned from the archive (the models under one serial number are one model, where each stands there often
enough to be no slip), and can be pinned in a file, which wins over what was learned. Called by whoever states or
compares protocols; `iap-node protocols --vocabulary` prints what was learned as such a file::

    manufacturers:                       # every key may be left out
      SIEMENS: [Siemens AG, Siemens Healthineers]
    models:
      Skyra: [MAGNETOM Skyra, SKYRA]
    scan_options:                        # single options, or all of one header in another order
      FS: [FATSAT]
      PFP\\FS: [FS\\PFP]
    protocols:                           # protocol names; of GE: protocol name / series description
      t1_mprage: [T1_MPRAGE_SAG, mprage old]
"""

from __future__ import annotations

import difflib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import yaml

from iap_node.audit.checks import vendors
from iap_node.dicom.parameters import canonical_text
from iap_node.errors import ConfigError

DeviceSpelling = tuple[str, str, str, int]  # manufacturer, model and serial number as written, in how many series

SECTIONS = ("manufacturers", "models", "scan_options", "protocols")
FEWEST_SERIES = 3  # under one serial number, before a spelling is no slip
MOST_MODELS = 4  # that one scanner is called: the most that was met; a number with more is no serial number

_MAKERS = frozenset({"magnetom", "siemens", "healthineers", "philips", "medical", "systems", "canon", "toshiba", "ge"})
_WORD = re.compile(r"[^\W_]+")
_NO_SERIAL_NUMBER = frozenset({"none", "unknown", "anonymous", "anonymized", "anonymised", "removed", "na", "null"})


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """By folded spelling, the text that stands for it. Empty: nothing but folding is known."""

    manufacturers: Mapping[str, str] = field(default_factory=dict)
    models: Mapping[str, str] = field(default_factory=dict)
    scan_options: Mapping[str, str] = field(default_factory=dict)
    protocols: Mapping[str, str] = field(default_factory=dict)

    def manufacturer(self, text: str) -> str:
        """The key of a Manufacturer (0008,0070); "" where it says nothing."""
        text = self.manufacturers.get(_folded(text), text)
        return (vendors.by_name(text) or canonical_text(text) or "").casefold()

    def model(self, text: str) -> str:
        """The key of a Manufacturer's Model Name (0008,1090); "" where it says nothing."""
        return _model(self.models.get(_model(text), text))

    def protocol(self, text: str) -> str:
        """The key of a protocol's name; "" where it says nothing."""
        return _folded(self.protocols.get(_folded(text), text))

    def options(self, text: str) -> str:
        """Scan Options (0018,0022) in the words that stand for them."""
        text = self.scan_options.get(_folded(text), text)
        return "\\".join(self.scan_options.get(_folded(part), part) for part in text.split("\\"))


def serial_number(text: str) -> str:
    """The key of a Device Serial Number (0018,1000); "" where it is empty, or what de-identification leaves of it.

    Leading zeros say nothing.
    """
    folded = _folded(text)
    bare = folded.strip("0 .-_*x")
    return "" if not bare or bare in _NO_SERIAL_NUMBER else folded.lstrip("0")


def _folded(text: str) -> str:
    return (canonical_text(text) or "").casefold()


def _model(text: str) -> str:
    """A model without its maker, case and punctuation: MAGNETOM Prisma Fit and Prisma_fit are prismafit."""
    words = _WORD.findall(text.casefold())
    return "".join(word for word in words if word not in _MAKERS) or "".join(words)


# ---------------------------------------------------------------- pinned


def load_vocabulary(path: Path | None) -> Vocabulary:
    """The vocabulary pinned in a file; one that knows nothing but folding where `path` is None.

    Raises
    ------
    ConfigError
        The file cannot be read or is not such a vocabulary; the text names the key.
    """
    if path is None:
        return Vocabulary()
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the vocabulary {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"the vocabulary {path} is not YAML: {error}") from error
    try:
        return parse_vocabulary(content)
    except ConfigError as error:
        raise ConfigError(f"the vocabulary {path}: {error}") from error


def parse_vocabulary(content: Any) -> Vocabulary:
    """A vocabulary from what YAML made of its file.

    Raises
    ------
    ConfigError
        It is none; the text names the key.
    """
    if content is None:
        return Vocabulary()
    if not isinstance(content, dict):
        raise ConfigError(f"the top level must be a mapping with any of {', '.join(SECTIONS)}")
    for name in content:
        if name not in SECTIONS:
            near = difflib.get_close_matches(str(name), SECTIONS, n=1)
            raise ConfigError(f"unknown key {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    return Vocabulary(**{name: _pinned(name, content.get(name)) for name in SECTIONS})


def _pinned(section: str, content: Any) -> dict[str, str]:
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{section}: must be a mapping of names to lists of their other spellings")
    fold = _model if section == "models" else _folded
    found: dict[str, str] = {}
    for name, spellings in content.items():
        if not isinstance(spellings, list):
            raise ConfigError(f"{section}.{name}: must be a list of spellings, for example [{name} old]")
        for spelling in (name, *spellings):
            if not isinstance(spelling, str) or not fold(spelling):
                raise ConfigError(f"{section}.{name}: {spelling!r} is no text; put it in quotes")
            stands = found.setdefault(fold(spelling), name)
            if stands != name:
                raise ConfigError(f"{section}.{name}: {spelling!r} stands under {stands!r} already")
    return found


# ---------------------------------------------------------------- learned


def learn_vocabulary(
    pinned: Vocabulary, devices: Iterable[DeviceSpelling], scan_options: Iterable[tuple[str, int]] = ()
) -> Vocabulary:
    """What the site's own series teach, below what is pinned.

    Parameters
    ----------
    devices
        Of the archive (`database.protocols.device_spellings`) or of a folder.
    scan_options
        Scan Options as written, and in how many series (`database.protocols.scan_options`).
    """
    devices = list(devices)
    written: defaultdict[str, Counter[str]] = defaultdict(Counter)  # by model key, how it is spelled
    under: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)  # by scanner, its model keys
    for manufacturer, model, serial, n_series in devices:
        key = _model(model)
        if not key or key in pinned.models:
            continue
        written[key][model] += n_series
        if serial_number(serial):
            under[pinned.manufacturer(manufacturer), serial_number(serial)][key] += n_series
    same: dict[str, set[str]] = {key: {key} for key in written}
    for models in under.values():
        if len(models) > MOST_MODELS:
            continue
        often = [model for model, n_series in models.items() if n_series >= FEWEST_SERIES]
        for one, other in combinations(often, 2):
            if not _different_products(written[one], written[other]):
                joined = same[one] | same[other]
                same.update(dict.fromkeys(joined, joined))
    learned = {}
    for key, keys in same.items():
        if len(keys) > 1:
            learned[key] = _commonest(sum((written[one] for one in sorted(keys)), Counter[str]()))
    orders: defaultdict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    for text, n_series in scan_options:
        orders[_terms(text)][text] += n_series
    options = {_folded(text): _commonest(texts) for texts in orders.values() if len(texts) > 1 for text in texts}
    return Vocabulary(
        pinned.manufacturers,
        {**learned, **pinned.models},
        {**{text: order for text, order in options.items() if text not in pinned.scan_options}, **pinned.scan_options},
        pinned.protocols,
    )


def _different_products(one: Counter[str], other: Counter[str]) -> bool:
    """Whether two models were sold with different field strengths: then one number stands for two scanners."""
    fields = {vendors.field_by_model(_commonest(texts)) for texts in (one, other)} - {None}
    return len(fields) > 1


def _commonest(texts: Counter[str]) -> str:
    return min(texts, key=lambda text: (-texts[text], text))


def _terms(text: str) -> tuple[str, ...]:
    return tuple(sorted(_folded(part) for part in text.split("\\")))


def as_file(
    vocabulary: Vocabulary, devices: Iterable[DeviceSpelling], scan_options: Iterable[tuple[str, int]] = ()
) -> str:
    """What a vocabulary makes of the spellings that were met, in the format of the file that pins them."""
    met: dict[str, defaultdict[str, Counter[str]]] = {name: defaultdict(Counter) for name in SECTIONS}
    for manufacturer, model, _, n_series in devices:
        met["manufacturers"][vocabulary.manufacturer(manufacturer)][manufacturer] += n_series
        met["models"][vocabulary.model(model)][model] += n_series
    for text, n_series in scan_options:
        met["scan_options"]["\\".join(_terms(vocabulary.options(text)))][text] += n_series
    stands = {"manufacturers": _folded, "models": _model, "scan_options": _folded, "protocols": _folded}
    content: dict[str, dict[str, list[str]]] = {}
    for section, by_key in met.items():
        pins: Mapping[str, str] = getattr(vocabulary, section)
        names: dict[str, list[str]] = {}
        for key, texts in by_key.items():
            if key and len(texts) > 1:
                common = _commonest(texts)
                name = pins.get(stands[section](common), common)
                names[name] = sorted(text for text in texts if text and text != name)
        for spelling, name in sorted(pins.items()):
            if name not in names:
                names[name] = []
            if spelling not in {stands[section](text) for text in (name, *names[name])}:
                names[name].append(spelling)
        if names:
            content[section] = dict(sorted(names.items()))
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=False) if content else "{}\n"
