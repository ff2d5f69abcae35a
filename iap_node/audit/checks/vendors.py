"""Who made a scanner, by the traces that manufacturers leave: names, models, private blocks, UIDs, software.

Called by the checks, to forgive a habit to whom it belongs and to find a header that names the wrong one. The tables
hold product names as they are sold and traces as real headers bear them, which no standard lists; what is not in them
is unknown, and of the unknown nothing is said.
"""

from __future__ import annotations

import re
from functools import lru_cache

# As most of their scanners write Manufacturer (0008,0070).
SIEMENS, GE, PHILIPS, CANON = "SIEMENS", "GE MEDICAL SYSTEMS", "Philips", "CANON_MEC"
UIH, HITACHI = "UIH", "HITACHI"

_NAMES = (
    (SIEMENS, re.compile(r"siemens", re.IGNORECASE)),
    (GE, re.compile(r"^ge\b|general electric|\bgems\b", re.IGNORECASE)),
    (PHILIPS, re.compile(r"philips", re.IGNORECASE)),
    (CANON, re.compile(r"canon|toshiba", re.IGNORECASE)),
    (UIH, re.compile(r"^uih\b|united.?imaging", re.IGNORECASE)),
    (HITACHI, re.compile(r"hitachi|fujifilm", re.IGNORECASE)),
)
# Product names that one manufacturer alone uses for its MR scanners.
_MODELS = (
    (
        SIEMENS,
        re.compile(
            r"magnetom|^(avanto|aera|allegra|altea|amira|biograph_?mmr|cima|concerto|espree|essenza|harmony|lumina|"
            r"prisma|prisma_?fit|sempra|skyra|skyra_?fit|sola|sonata|spectra|symphony|symphonytim|terra|trio|triotim|"
            r"verio|vida)\b",
            re.IGNORECASE,
        ),
    ),
    (GE, re.compile(r"\bsigna\b|genesis_signa|discovery mr|optima mr|brivo mr", re.IGNORECASE)),
    (PHILIPS, re.compile(r"^(achieva|ingenia|intera|gyroscan|multiva|panorama hfo|prodiva|ambition)", re.IGNORECASE)),
    (CANON, re.compile(r"\b(galan|vantage|titan|orian|fortian)\b|^mrt\d+|excelart", re.IGNORECASE)),
    (UIH, re.compile(r"^umr ", re.IGNORECASE)),
    (HITACHI, re.compile(r"^(airis|aperto|echelon|oasis|trillium)", re.IGNORECASE)),
)
# Product names that were sold with one field strength only, T.
_FIELDS = (
    (1.5, re.compile(r"^(magnetom )?(avanto|aera|altea|amira|espree|essenza|sempra|sola|sonata|symphony\w*)\b", re.I)),
    (
        3.0,
        re.compile(
            r"^(magnetom )?(allegra|biograph_?mmr|lumina|prisma|prisma[ _]?fit|skyra|skyra[ _]?fit|spectra|trio|"
            r"triotim|verio|vida)\b",
            re.IGNORECASE,
        ),
    ),
    (7.0, re.compile(r"^(magnetom )?terra\b", re.IGNORECASE)),
    (1.5, re.compile(r"^(optima mr(360|430|450w?)|discovery mr450|signa (artist|explorer|voyager|creator))\b", re.I)),
    (3.0, re.compile(r"^(discovery mr750w?|signa (architect|pioneer|premier|hero))\b", re.IGNORECASE)),
    (3.0, re.compile(r"^ingenia elition", re.IGNORECASE)),
    (1.5, re.compile(r"^ingenia ambition", re.IGNORECASE)),
    (3.0, re.compile(r"^umr (7[789]\d|880|890)\b", re.IGNORECASE)),
    (1.5, re.compile(r"^umr 5\d\d\b", re.IGNORECASE)),
)
_FIELD_IN_NAME = re.compile(r"(?<![\w.])(\d(?:\.\d{1,2})?) ?T\b")  # "Galan 3T", "Achieva 1.5T"
_CREATORS = (
    (SIEMENS, re.compile(r"^SIEMENS (MR|CSA|MEDCOM)")),
    (GE, re.compile(r"^GEMS_")),
    (PHILIPS, re.compile(r"^Philips (MR )?Imaging DD|^PHILIPS MR", re.IGNORECASE)),
    (CANON, re.compile(r"^(CANON|TOSHIBA)_MEC_MR")),
)
_UID_ROOTS = (
    (SIEMENS, "1.3.12.2.1107.5."),
    (GE, "1.2.840.113619."),
    (PHILIPS, "1.3.46.670589."),
    (CANON, "1.2.392.200036.9116."),
    (UIH, "1.2.156.112605."),
)
_SOFTWARE = ((SIEMENS, re.compile(r"^syngo MR", re.IGNORECASE)), (GE, re.compile(r"^\d+\\LX\\|\\LX\\MR")))
# Serial number of the scanner in the UIDs that it makes, by what real instances show.
_SERIAL_IN_UID = (
    re.compile(r"1\.3\.12\.2\.1107\.5\.2\.\d+\.(\d{5,6})\."),
    re.compile(r"1\.3\.46\.670589\.11\.(\d{4,6})\.5\."),
    re.compile(r"1\.2\.392\.200036\.9116\.4\.2\.(\d{4,6})\."),
)


@lru_cache(maxsize=256)
def by_name(manufacturer: str) -> str | None:
    """The maker that Manufacturer (0008,0070) names; None where it is unknown or empty."""
    return _first(_NAMES, manufacturer.strip())


@lru_cache(maxsize=256)
def by_model(model: str) -> str | None:
    """The only maker that has an MR scanner of that name."""
    return _first(_MODELS, model.strip())


@lru_cache(maxsize=256)
def field_by_model(model: str) -> float | None:
    """Nominal field strength, T, of a product that was sold with one only, or whose name states it."""
    found = _FIELD_IN_NAME.search(model)
    if found:
        return float(found[1])
    return next((field for field, pattern in _FIELDS if pattern.search(model.strip())), None)


def by_creators(creators: frozenset[str]) -> frozenset[str]:
    """The makers of the private blocks."""
    return frozenset(vendor for creator in creators for vendor in (_first(_CREATORS, creator),) if vendor)


def by_uid(uid: str) -> str | None:
    """The maker whose root a UID has (PS3.5 B.1)."""
    return next((vendor for vendor, root in _UID_ROOTS if uid.startswith(root)), None)


def by_software(versions: str) -> str | None:
    """The only maker that writes such Software Versions (0018,1020)."""
    return _first(_SOFTWARE, versions)


def serial_in_uid(uid: str) -> str | None:
    """The scanner's serial number in a UID that it made; None where none is known to be there."""
    return next((found[1] for pattern in _SERIAL_IN_UID for found in (pattern.match(uid),) if found), None)


def _first(table: tuple[tuple[str, re.Pattern[str]], ...], text: str) -> str | None:
    return next((vendor for vendor, pattern in table if pattern.search(text)), None)
