"""Regular expressions that take time in proportion to the text, whatever the pattern: for `matches` in rules.

Python's `re` goes back and tries again, and a pattern such as `(a+)+$` takes it for ever on a hostile header. The
engine here is the `regex` crate of Rust, which pydantic brings along: finite automata, no way back, hence neither
back-references nor look-around; a pattern that would need more than some megabytes of automaton is refused too.
Called by the configuration, which refuses, and by the routing rules, which match.
"""

from __future__ import annotations

from pydantic_core import SchemaError, SchemaValidator, core_schema

MOST_CHARACTERS = 512  # of a pattern: longer ones are lists, and `one_of` says those better


class Pattern:
    """A compiled pattern; matches anywhere in a text, without case, unless anchored by `^` and `$`.

    Raises
    ------
    ValueError
        The pattern is too long, or not one that this engine takes; the text says why.
    """

    __slots__ = ("_validator", "text")

    def __init__(self, text: str) -> None:
        if len(text) > MOST_CHARACTERS:
            raise ValueError(f"a pattern of {len(text)} characters; at most {MOST_CHARACTERS}: use one_of for lists")
        self.text = text
        schema = core_schema.str_schema(pattern=f"(?i:{text})", regex_engine="rust-regex")
        try:
            # the pattern itself first: `a)|(b` is none, although it is one between the brackets of the group
            SchemaValidator(core_schema.str_schema(pattern=text, regex_engine="rust-regex"))
            self._validator = SchemaValidator(schema)
        except SchemaError as error:
            reason = [line.strip() for line in str(error).splitlines() if line.strip()]
            why = reason[-1].removeprefix("error: ") if reason else "not a pattern"
            raise ValueError(
                f"the pattern {text!r} cannot be used: {why} (syntax of Rust's regex: no back-references, "
                "no look-around; it takes time in proportion to the text)"
            ) from None

    def matches(self, text: str) -> bool:
        """Whether the pattern is found in `text`."""
        return self._validator.isinstance_python(text)
