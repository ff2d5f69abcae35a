"""Descriptions reduced to words that speak of images: the option Clean Descriptors. Called by `copies`.

People write names, dates and numbers into descriptions of series and protocols. Nobody can list those, so the words
that stay are listed, in `descriptor_words.txt`; of numbers only short ones stay, and only between such words, since
pieces of a telephone number or a date stand beside each other. Source: PS3.15 E.3.5.
"""

from __future__ import annotations

import re
from functools import lru_cache
from importlib import resources

TEXTUAL = frozenset({"LO", "LT", "SH", "ST", "UC", "UT"})
_ONE_TEXT = frozenset({"LT", "ST", "UT"})  # in which a backslash separates nothing
_TOKEN = re.compile(r"[^\s_/\\.,;:()\[\]{}+*=<>|'\"&#!?^~-]+")
_NUMBER = re.compile(r"[0-9]{1,3}", re.ASCII)
_MEASURE = re.compile(
    r"(?:b[0-9]{1,4}|p[1-9]|te[0-9]{1,3}|tr[0-9]{1,4}|ti[0-9]{1,4}|[0-9]{1,3}(?:mm|ms|cm|ml|t|d|ch|dir|sl))"
)


@lru_cache(1)
def words() -> frozenset[str]:
    """The words that stay."""
    text = resources.files(__package__).joinpath("descriptor_words.txt").read_text("utf-8")
    return frozenset(word for line in text.splitlines() if not line.startswith("#") for word in line.split())


def cleaned(text: str, vr: str) -> str:
    """A description without all that is not known to be harmless; "" where nothing is left."""
    values = [text] if vr in _ONE_TEXT else text.split("\\")
    kept = [_cleaned(value) for value in values]
    return "\\".join(kept) if any(kept) else ""


def _cleaned(value: str) -> str:
    tokens = _TOKEN.findall(value)
    known = [True, *map(_is_known, tokens), True]  # the ends are as good as words
    kept = [
        token
        for place, token in enumerate(tokens, 1)
        if known[place] or (_NUMBER.fullmatch(token) and known[place - 1] and known[place + 1])
    ]
    return " ".join(kept) if any(known[1:-1]) else ""


def _is_known(token: str) -> bool:
    word = token.lower()
    return word in words() or _MEASURE.fullmatch(word) is not None
