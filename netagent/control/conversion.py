"""Outside JSON to requests: each field by its declaration, converted by msgspec.

An unknown field is an error that suggests the nearest known one: a misspelt option must not be silently ignored.
Errors name fields in the words of the command line, which sends nearly all requests; an error's `thing` is the field.
"""

from __future__ import annotations

import difflib
import typing
from collections.abc import Mapping
from types import UnionType
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec

from netagent.errors import InputError
from netagent.interface.command import REQUIRED, Argument, Fields
from netagent.model.ids import is_name

F = TypeVar("F", bound=Fields)

MAX_TEXT: Final = 4096
"""Characters of a text; the longest is a path (PATH_MAX)."""
MAX_ITEMS: Final = 64
"""Items of a list. All lists of an endpoint are part of one record, which has to stay small."""
_SPANS_S: Final[Mapping[str, int]] = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_known_types: Final[dict[type[Fields], Mapping[str, tuple[Argument, Any]]]] = {}
"""Filled as requests come: evaluating annotations takes longer than converting a request."""


def object_untrusted(body: bytes) -> dict[str, Any]:
    """Parse the body of a request as a JSON object; no body is an empty object."""
    if not body:
        return {}
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        raise InputError("the request is not JSON", hint="send one JSON object") from None
    if not isinstance(value, dict):
        raise InputError("the request is not a JSON object", hint="send one JSON object")
    return value


def fields_untrusted(
    kind: type[F], value: object, *, in_words: bool = False, path: Mapping[str, str] | None = None
) -> F:
    """Convert a JSON object. `null` is the same as a missing field. `in_words`: from a query, where numbers and
    booleans are texts. `path`: fields that are not in the object; an empty one names nothing. Raises InputError."""
    if not isinstance(value, dict):
        raise TypeError  # inside a list: msgspec turns it into its own error
    given: dict[str, Any] = dict(path or {})
    types = dict(types_of(kind))
    for name, text in given.items():
        argument, type_ = types.pop(name)
        given[name] = text and _converted(argument, type_, text, in_words=True)
    for name in value:
        if name not in types:
            near = difflib.get_close_matches(name, types, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "known are " + ", ".join(types)
            raise InputError(f"there is no field {name[:80]!r}", thing=name[:80], hint=hint)
    for name, (argument, type_) in types.items():
        item = value.get(name)
        if item is not None and item != "":
            given[argument.attribute] = _converted(argument, type_, item, in_words=in_words)
        elif argument.default is REQUIRED:
            raise InputError(f"the {name} is missing", thing=name, hint=f"give {_article(name)} {name}")
        elif item == "" and type_of(type_) is not str:
            raise _flaw(argument, type_, item)
    return kind(**given)


def types_of(kind: type[Fields]) -> Mapping[str, tuple[Argument, Any]]:
    """Return the fields that are sent, by their names in JSON, with their types and bounds."""
    if kind not in _known_types:
        hints = typing.get_type_hints(kind)
        sent = [one for one in kind.arguments() if one.is_sent]
        _known_types[kind] = {one.field: (one, _bounded(_present(hints[one.attribute]), one)) for one in sent}
    return _known_types[kind]


def _present(type_: Any) -> Any:
    """Return the type of a value that is given: without None, which is the same as a missing field."""
    kinds = [one for one in typing.get_args(type_) if one is not type(None)]
    return kinds[0] if typing.get_origin(type_) in (typing.Union, UnionType) and len(kinds) == 1 else type_


def _bounded(type_: Any, argument: Argument) -> Any:
    if type_ is str:
        least = 1 if argument.default is REQUIRED else 0
        return Annotated[str, msgspec.Meta(min_length=least, max_length=MAX_TEXT)]
    if argument.bounds is not None:
        low, high = map(type_, argument.bounds)
        return Annotated[type_, msgspec.Meta(ge=low, le=high)]
    if type_of(type_) in (list, dict):
        *key, item = typing.get_args(type_)
        return Annotated[type_of(type_)[(*key, _bounded(item, argument))], msgspec.Meta(max_length=MAX_ITEMS)]
    return type_


def type_of(type_: Any) -> Any:
    """Return the type without bounds and type arguments."""
    plain = typing.get_args(type_)[0] if typing.get_origin(type_) is Annotated else type_
    return typing.get_origin(plain) or plain


def _converted(argument: Argument, type_: Any, item: object, *, in_words: bool) -> Any:
    try:
        found = msgspec.convert(item, type_, strict=not in_words, dec_hook=fields_untrusted)
    except msgspec.ValidationError:
        raise _flaw(argument, type_, item) from None
    texts = found.values() if isinstance(found, dict) else found if isinstance(found, list) else [found]
    if any(isinstance(text, str) and not text.isprintable() for text in texts):
        raise _no_text(argument, found)
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        return found
    if "" in found:
        raise InputError(f"{_called(argument)} has an empty text", thing=argument.field, hint="leave it out")
    return list(dict.fromkeys(found))


def _flaw(argument: Argument, type_: Any, item: object) -> InputError:
    """Return the error for a value that does not have its type, or is out of bounds."""
    called, field, plain = _called(argument), argument.field, type_of(type_)
    if plain is bool:
        said, hint = f"{field} is neither true nor false", "write true or false"
    elif argument.bounds is not None and plain is float:
        low, high = map(_span, argument.bounds)
        shown = f"{item:.0f}" if isinstance(item, float) else str(item)[:80]
        said, hint = f"{called} cannot be {shown} seconds", f"use {called} {low} to {high}"
    elif argument.bounds is not None:
        low, high = map(str, argument.bounds)
        said, hint = f"{called} cannot be {str(item)[:80]}", f"give a whole number from {low} to {high}"
    elif plain is Literal:
        said, hint = f"{field} {item!r:.80} is not known", "use " + " or ".join(argument.parsing["choices"])
    elif plain in (list, dict) and not isinstance(item, plain):
        said, hint = _NO_COLLECTION[plain]
        said = f"{field} {said}"
    elif isinstance(item, (list, dict)) and len(item) > MAX_ITEMS:
        said, hint = f"{called} is given {len(item)} times", f"give it at most {MAX_ITEMS} times"
    else:
        return _no_text(argument, item, type_)
    return InputError(said, thing=field, hint=hint)


_NO_COLLECTION: Final = {
    list: ("is not a list", "write a JSON list"),
    dict: ("is not an object", 'write {"key": "value"}'),
}


def _no_text(argument: Argument, item: object, type_: Any = str) -> InputError:
    field = argument.field
    texts = item.values() if isinstance(item, dict) else item if isinstance(item, list) else [item]
    if any(isinstance(kind, type) and issubclass(kind, Fields) for kind in _inner(type_)):
        return InputError(f"{field} is not a list of objects", thing=field, hint="see the API's reference")
    if not all(isinstance(text, str) for text in texts):
        return InputError(f"{field} is not a text", thing=field, hint="write a JSON text")
    return InputError(
        f"{_called(argument)} is not a text of at most {MAX_TEXT} printable characters",
        thing=field,
        hint="shorten it, and leave out control characters",
    )


def _inner(type_: Any) -> tuple[Any, ...]:
    """Return the type arguments of a list or dict with bounds."""
    return typing.get_args(typing.get_args(type_)[0]) if typing.get_origin(type_) is Annotated else ()


def _called(argument: Argument) -> str:
    """Return its option, as errors call it."""
    return argument.words[-1] if argument.words else argument.called or f"the {argument.field}"


def _span(seconds: float) -> str:
    """Format seconds as the command line takes them: `1s`, `30d`."""
    unit = next(unit for unit, size in _SPANS_S.items() if unit == "s" or (seconds and not seconds % size))
    return f"{seconds / _SPANS_S[unit]:.0f}{unit}"


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
