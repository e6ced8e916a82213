"""The fields of an outside JSON object, each read with its type and bounds.

An unknown field is an error that suggests the nearest known one: a misspelt option must not be silently ignored.
Errors name fields in the words of the command line.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sized
from typing import Any

from netagent.errors import InputError
from netagent.model.ids import is_name

MAX_TEXT = 4096
"""Characters of a text; the longest is a path (PATH_MAX)."""
MAX_ITEMS = 64
"""Items of a list. All lists of an endpoint are part of one record, which has to stay small."""

_SPOKEN = {
    "aliases": "--alias",
    "links": "--link",
    "ports": "--expose",
    "publish": "--publish",
    "labels": "--label",
    "ip": "--ip",
    "mac": "--mac",
    "ifname": "--ifname",
    "subnets": "--subnet",
    "mtu_bytes": "--mtu",
    "uses": "--uses",
    "dead_for_s": "--dead-for",
    "number": "a port's number",
}
"""Fields in the words of the command line, which sends nearly all requests; `thing` of an error is the field."""


class JsonFields:
    """Reads the fields of a JSON object with their types and bounds; the constructor refuses unknown fields."""

    def __init__(self, value: Mapping[str, Any], known: str) -> None:
        names = known.split()
        for name in value:
            if name not in names:
                near = difflib.get_close_matches(name, names, n=1)
                hint = f"did you mean {near[0]!r}?" if near else "known are " + ", ".join(names)
                raise InputError(f"there is no field {name[:80]!r}", thing=name[:80], hint=hint)
        self._value = value

    def text(self, field: str, *, required: bool = False) -> str:
        """Return a text; `""` when missing or null."""
        value = self._value.get(field)
        text = text_of("" if value is None else value, field)
        if required and not text:
            raise InputError(f"the {field} is missing", thing=field, hint=f"give {_article(field)} {field}")
        return text

    def name(self, field: str) -> str:
        """Return a valid name, or `""`."""
        text = self.text(field)
        return name_of(text, field) if text else ""

    def texts(self, field: str) -> tuple[str, ...]:
        """Return a list of texts in order, without duplicates; refuses empty ones."""
        texts = [text_of(item, field) for item in self._list(field)]
        if "" in texts:
            raise InputError(f"{_spoken(field)} has an empty text", thing=field, hint="leave it out")
        return tuple(dict.fromkeys(texts))

    def objects(self, field: str) -> list[Mapping[str, Any]]:
        """Return a list of objects."""
        items = self._list(field)
        if not all(isinstance(item, dict) for item in items):
            raise InputError(f"{field} is not a list of objects", thing=field, hint="see the API's reference")
        return items

    def object(self, field: str) -> Mapping[str, Any]:
        """Return an object; {} when missing."""
        value = self._value.get(field) or {}
        if not isinstance(value, dict):
            raise InputError(f"{field} is not an object", thing=field, hint='write {"key": "value"}')
        _refuse_too_many(value, field)
        return value

    def flag(self, field: str) -> bool:
        """Return a boolean; False when missing."""
        value = self._value.get(field, False)
        if not isinstance(value, bool):
            raise InputError(f"{field} is neither true nor false", thing=field, hint="write true or false")
        return value

    def number(self, field: str, low: int, high: int) -> int | None:
        """Return a number from `low` to `high`; None when missing."""
        value = self._value.get(field)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise InputError(
                f"{_spoken(field)} cannot be {str(value)[:80]}",
                thing=field,
                hint=f"give a whole number from {low} to {high}",
            )
        return value

    def _list(self, field: str) -> list[Any]:
        value = self._value.get(field)
        if value is None:
            return []
        if not isinstance(value, list):
            raise InputError(f"{field} is not a list", thing=field, hint="write a JSON list")
        _refuse_too_many(value, field)
        return value


def _spoken(field: str) -> str:
    return _SPOKEN.get(field, f"the {field}")


def _refuse_too_many(value: Sized, field: str) -> None:
    if len(value) > MAX_ITEMS:
        hint = f"give it at most {MAX_ITEMS} times"
        raise InputError(f"{_spoken(field)} is given {len(value)} times", thing=field, hint=hint)


def text_of(value: object, field: str) -> str:
    """Return the value as a printable text of at most MAX_TEXT characters, else raise InputError."""
    if not isinstance(value, str):
        raise InputError(f"{field} is not a text", thing=field, hint="write a JSON text")
    if len(value) > MAX_TEXT or not value.isprintable():
        raise InputError(
            f"{_spoken(field)} is not a text of at most {MAX_TEXT} printable characters",
            thing=field,
            hint="shorten it, and leave out control characters",
        )
    return value


def name_of(text: str, what: str) -> str:
    """Return the text if it is a valid name, else raise InputError, which suggests the lower-case form if valid."""
    if is_name(text):
        return text
    lower = text.lower()
    hint = f"did you mean {lower!r}?" if is_name(lower) else "use a-z, 0-9, - and _ inside, at most 63"
    role = "a name" if what == "name" else f"the name of {_article(what)} {what}"
    raise InputError(f"{text[:80]!r} cannot be {role}", thing=text[:80], hint=hint)


def _article(word: str) -> str:
    return "an" if word[:1] in "aeiou" else "a"
