"""Spellings that mean the same: of manufacturers, models, scan options and protocols.

One scanner writes itself in several ways: `Skyra`, `MAGNETOM Skyra`, `SKYRA`; `SIEMENS`, `Siemens Healthineers`. What
differs by case, white space and punctuation only, or by the maker's name before the model's, is known to be the same.
The rest is learned from the archive (the models under one serial number are one model, where each stands there often
enough to be no slip), and can be pinned in a file, which wins over what was learned. Called by whoever states or
compares protocols; `iap-node protocols --vocabulary` prints what was learned as such a file::

    manufacturers:                       # all keys may be left out
      SIEMENS: [Siemens AG, Siemens Healthineers]
    models:
      Skyra: [MAGNETOM Skyra, SKYRA]
    scan_options:                        # single options, or all of one header in another order
      FS: [FATSAT]
      PFP\\FS: [FS\\PFP]
    protocols:                           # protocol names (with GE: "protocol name / series description")
      t1_mprage: [T1_MPRAGE_SAG, mprage old]
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path


DeviceSpelling = tuple[str, str, str, int]  # manufacturer, model and serial number as written, in how many series


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """By folded spelling, the text that stands for it."""

    manufacturers: Mapping[str, str]
    models: Mapping[str, str]
    scan_options: Mapping[str, str]
    protocols: Mapping[str, str]


def load_vocabulary(path: Path | None) -> Vocabulary:
    """The vocabulary pinned in a file; one that knows nothing but folding where `path` is None.

    Raises
    ------
    ConfigError
        The file cannot be read or is not such a vocabulary; the text names the key.
    """
    raise NotImplementedError


def learn_vocabulary(
    pinned: Vocabulary, devices: Iterable[DeviceSpelling], scan_options: Iterable[tuple[str, int]] = ()
) -> Vocabulary:
    """What the site's own series teach, below what is pinned.

    Parameters
    ----------
    devices
        Of the archive or the folder: `database.protocols.device_spellings`.
    scan_options
        Scan Options as written, and in how many series: `database.protocols.scan_options`.
    """
    raise NotImplementedError
