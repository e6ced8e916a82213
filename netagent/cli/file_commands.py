"""`netagent export` and `netagent apply`: the cluster as a TOML file.

    [network.app]                a table for each network, with its options
    [[service]]                  each addition to an outside service
    [[service_address]]          each address that a service has of its own
    [[name]]                     each own name
    [[publish]]                  each port of all hosts that leads to a service
    [[token]]                    each token of this host, without its secret

The keys are the fields of the API. This file reads and writes TOML, checks the form of each table as the agent does
with a request, and asks for agreement. The agent compares.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Self, TextIO

from netagent.cli.client_commands import DONE, NO, CommandContext, runs, waiting
from netagent.cli.render import Printer, clean
from netagent.control.client import TIMEOUT
from netagent.control.conversion import MAX_ITEMS, fields_untrusted
from netagent.errors import FailedError, InputError, NetagentError, RefusedError, UnreachableError
from netagent.interface.command import Fields
from netagent.interface.description import (
    SECTIONS,
    ApplyCommand,
    DescribedName,
    DescribedNetwork,
    DescribedPublication,
    DescribedService,
    DescribedServiceAddress,
    DescribedToken,
    ExportCommand,
    section_of,
)

MAX_FILE_BYTES: Final = 1 << 18
"""Four times what the agent takes as one request: a file has comments and blanks. Reading it takes two
seconds at most."""
MAX_PROBLEMS: Final = 20
"""Bound of the lines about what is wrong with a file; beyond it: the others are counted."""
_LONG_KEY: Final = re.compile(
    r"""(?<![A-Za-z0-9_-])(?:(?:[A-Za-z0-9_-]+|"[^"\n]*"|'[^'\n]*')[ \t]*\.[ \t]*){64}"""
)
"""A key of more than 64 parts: the parser's work for one grows with the square of them. Keys of a file have three."""
_HEAD: Final = "# Written by `netagent export`. `netagent apply FILE` makes a cluster like this."
_KINDS: Final[Mapping[str, type[Fields]]] = {
    "networks": DescribedNetwork,
    "services": DescribedService,
    "service_addresses": DescribedServiceAddress,
    "names": DescribedName,
    "published": DescribedPublication,
    "tokens": DescribedToken,
}


@runs(ExportCommand)
def export(session: CommandContext, request: ExportCommand) -> int:
    """Print the file."""
    answer, printer = session.send(request), session.printer
    if printer.is_machine:
        printer.json(answer)
        return DONE
    printer.lines(toml_of(answer))
    return DONE


@runs(ApplyCommand)
def apply(session: CommandContext, request: ApplyCommand) -> int:
    """Show the differences, ask, and make the cluster like the file."""
    printer, called = session.printer, _called(request.file)
    form = _FormCheck(content_untrusted(_text(request.file), called), called)
    try:
        shown = session.send(ApplyCommand(**form.sent, dry_run=True))
    except NetagentError as error:
        if form.flaws:  # they are known in any case
            return _refuse(session, form.flaws, called)
        if error.code == "too-large":
            error.hint = f"divide {called} into several files"
        raise
    form.add_found(shown.get("problems", ()))  # agents of the previous release have none
    if form.flaws:
        return _refuse(session, form.flaws, called)
    changes = shown["changes"]
    if request.dry_run or not changes:
        printer.one(
            {**shown, "applied": not request.dry_run}, lambda: _lines(shown, request.file), name="applied"
        )
        return NO if changes else DONE
    tokens = [one["name"] for one in shown.get("tokens", ())]
    with _TokenFiles(printer, request.token_dir, tokens) as files:
        if not request.yes:
            _ask(shown, request.file)
        with waiting(f"the agent is making {_count(changes)}"):
            answer = _send(session, ApplyCommand(**form.sent), called, tokens)
        kept = files.write(answer.get("tokens", ()))
    done = _lines(answer, request.file) if request.yes else [_done(answer["changes"])]
    # What was agreed to is on the screen; without a question the list is the report.
    printer.one({**answer, "tokens": kept}, lambda: [*done, *map(_token_line, kept)], name="applied")
    return DONE


def _send(
    session: CommandContext, request: ApplyCommand, called: str, tokens: Sequence[str]
) -> Mapping[str, Any]:
    """Have the changes made. If the answer does not arrive, say that some may be made, and how to find out."""
    way_out = f"`netagent apply --dry-run` with {called} shows what is left"
    if tokens:
        way_out += f"; tokens that it makes are of no use, revoke them: {', '.join(tokens)}"
    try:
        return session.client.send(request)
    except (UnreachableError, FailedError) as error:
        if error.code in (UnreachableError.code, TIMEOUT):
            error.hint = f"some of the changes may be made: {way_out}"
        raise
    except KeyboardInterrupt:
        said = f"interrupted while the agent makes the changes of {called}; it goes on: {way_out}"
        print(clean(f"netagent: {said}"), file=sys.stderr)
        raise


class _TokenFiles:
    """Where the secrets of new tokens go: into files for their owner alone, or once to a terminal; never into a pipe,
    whose reader may be a log. The files are made before the tokens: a token without a place is worthless."""

    def __init__(self, printer: Printer, folder: str, names: Sequence[str]) -> None:
        if names and not folder and (printer.is_machine or not sys.stdout.isatty()):
            raise InputError(
                f"the token {names[0]} would be shown, and standard output is no terminal",
                thing=names[0],
                hint="give --token-dir DIR",
            )
        self._folder = folder
        self._names = names if folder else ()
        self._files: dict[str, TextIO] = {}

    def __enter__(self) -> Self:
        for name in self._names:
            path = self._path(name)
            try:
                # Not through a link, and not over what is there: it may be the token that a program uses.
                number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            except OSError as error:
                self._remove()
                raise InputError(
                    f"cannot make {path} for the token {name}: {error.strerror}",
                    thing=name,
                    hint="give another --token-dir, or remove the file if nothing uses it",
                ) from None
            self._files[name] = os.fdopen(number, "w")
        return self

    def __exit__(self, *_: object) -> None:
        self._remove()

    def write(self, tokens: Iterable[Mapping[str, str]]) -> list[dict[str, str]]:
        """Write the secrets; return of each token where it is, or the token itself, to show."""
        kept = []
        for one in tokens:
            name, file = one["name"], self._files.pop(one["name"], None)
            if file is None:
                kept.append(dict(one))
                continue
            try:
                with file:
                    file.write(one["token"] + "\n")
            except OSError as error:
                raise FailedError(
                    f"cannot write the token {name} to {self._path(name)}: {error.strerror}",
                    thing=name,
                    hint=f"revoke it: `netagent token revoke {name}`, and apply the file again",
                ) from None
            kept.append({"name": name, "file": self._path(name)})
        return kept

    def _path(self, name: str) -> str:
        return os.path.join(self._folder, f"{name}.token")  # noqa: PTH118 - pathlib takes longer to import

    def _remove(self) -> None:
        """Remove the files of tokens that were not made."""
        for name, file in self._files.items():
            file.close()
            with contextlib.suppress(OSError):
                os.unlink(self._path(name))  # noqa: PTH108
        self._files.clear()


def _token_line(kept: Mapping[str, str]) -> str:
    if "file" in kept:
        return f"the token {kept['name']} is in {kept['file']}"
    return f"the token {kept['name']}, shown this once: {kept['token']}"


def _refuse(session: CommandContext, problems: Sequence[Mapping[str, Any]], called: str) -> int:
    """Print what is wrong with the file; return the exit status: bad input, or against a rule of the cluster."""
    if session.printer.is_machine:
        session.printer.json({"schema": 1, "applied": False, "changes": [], "problems": list(problems)})
    for one in problems[:MAX_PROBLEMS]:
        hint = f"; {one['hint']}" if one["hint"] else ""
        print(clean(f"netagent: {called}: {one['place']}: {one['message']}{hint}"), file=sys.stderr)
    if len(problems) > MAX_PROBLEMS:
        print(f"netagent: and {len(problems) - MAX_PROBLEMS} more", file=sys.stderr)
    is_input = any(one["code"] == InputError.code for one in problems)
    return InputError.exit_status if is_input else RefusedError.exit_status


def _ask(shown: Mapping[str, Any], file: str) -> None:
    """Raise InputError unless the user agrees."""
    if file == "-" or not sys.stdin.isatty():
        raise InputError(
            f"there is no one to agree to {_count(shown['changes'])} here",
            thing=file,
            hint="add --yes, or see them with --dry-run",
        )
    sys.stderr.write("".join(line + "\n" for line in _lines(shown, file)))
    sys.stderr.write("Make these changes? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise InputError("nothing was changed", thing=file, hint="answer y to agree")


def _lines(answer: Mapping[str, Any], file: str) -> Iterator[str]:
    changes = answer["changes"]
    for one in changes:
        yield clean(f"{one['sign']} {one['thing']}: {one['what']}")
    if not changes:
        yield clean(f"the cluster is as {'the file' if file == '-' else file} says")
    elif answer["applied"]:
        yield _done(changes)
    if answer["unmentioned"]:
        shown = answer["unmentioned"][:5]
        more = len(answer["unmentioned"]) - len(shown)
        yield clean(
            f"not in the file, stays as it is: {', '.join(shown)}{f' and {more} more' if more else ''}"
        )


def _done(changes: Sequence[object]) -> str:
    return f"made {_count(changes)}"


def _count(changes: Sequence[object]) -> str:
    return f"{len(changes)} change{'' if len(changes) == 1 else 's'}"


# -- reading -----------------------------------------------------------------------------------------------------


def _called(file: str) -> str:
    """Return what messages call the file."""
    return "standard input" if file == "-" else file


def _text(file: str) -> str:
    called = _called(file)
    try:
        if file == "-":
            data = sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
        else:
            with open(file, "rb") as stream:  # noqa: PTH123 - pathlib takes longer to import
                data = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise InputError(
            f"cannot read {called}: {error.strerror}",
            thing=file,
            hint="give a file that `netagent export` wrote",
        ) from None
    if len(data) > MAX_FILE_BYTES:
        raise InputError(
            f"{called} is larger than {MAX_FILE_BYTES} bytes", thing=file, hint="divide it into several files"
        )
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise InputError(f"{called} is no text in UTF-8", thing=file, hint="write it as TOML") from None


def content_untrusted(text: str, called: str) -> dict[str, list[Any]]:
    """Return the tables of a file by the fields of an apply. Raises InputError."""
    if _LONG_KEY.search(text):
        raise InputError(
            f"{called} has a key of more than 64 parts", thing=called, hint="see `netagent export`"
        )
    try:
        read = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # a number may have too many digits
        said = str(error) or "it is nested too deeply"
        raise InputError(f"{called} is no TOML: {said}", thing=called, hint="see `netagent export`") from None
    for key in read:
        if key not in SECTIONS.values():
            raise InputError(
                f"{called} has a section {key[:80]!r}, which means nothing here",
                thing=key[:80],
                hint="write " + " or ".join(map(_form, SECTIONS)),
            )
    _check(called, _is_plain(read), "value", "texts, whole numbers, true and false")
    return {field: _tables(called, field, read.get(section)) for field, section in SECTIONS.items()}


def _tables(called: str, field: str, given: Any) -> list[dict[str, Any]]:
    section, form = SECTIONS[field], _form(field)
    if given is None:
        return []
    if field != "networks":
        _check(called, isinstance(given, list) and all(isinstance(one, dict) for one in given), section, form)
        return list(given)
    _check(called, isinstance(given, dict), section, form)
    _check(called, all(isinstance(one, dict) for one in given.values()), section, form)
    _check(called, all("name" not in one for one in given.values()), section, f"its name in {form} alone")
    return [{"name": name, **one} for name, one in given.items()]


def _form(field: str) -> str:
    """Return how a section is written."""
    return f"[{SECTIONS[field]}.NAME]" if field == "networks" else f"[[{SECTIONS[field]}]]"


def _check(called: str, is_right: object, section: str, form: str) -> None:
    if not is_right:
        raise InputError(f"{called} has a {section} in another form", thing=section, hint=f"write {form}")


# -- what is wrong with it ---------------------------------------------------------------------------------------


class _FormCheck:
    """The tables of a file, each checked as the agent checks a request: all that is wrong, and what can be sent."""

    def __init__(self, content: Mapping[str, Sequence[Mapping[str, Any]]], called: str) -> None:
        self.flaws: list[dict[str, Any]] = []
        self.sent: dict[str, list[Mapping[str, Any]]] = {}
        self._content = content
        self._places: dict[str, list[int]] = {}
        """Which table each one that is sent is."""
        for field, tables in content.items():
            if len(tables) > MAX_ITEMS:
                raise InputError(
                    f"{called} has {len(tables)} of {_form(field)}, at most {MAX_ITEMS} are possible",
                    thing=field,
                    hint="divide it into several files",
                )
            for index, table in enumerate(tables):
                rest = self._checked(field, index, dict(table))
                if rest is not None:
                    self.sent.setdefault(field, []).append(rest)
                    self._places.setdefault(field, []).append(index)

    def _checked(self, field: str, index: int, table: dict[str, Any]) -> dict[str, Any] | None:
        """Return the table without the keys that are wrong; None if nothing can be made of it."""
        for _ in range(MAX_PROBLEMS):
            try:
                fields_untrusted(_KINDS[field], table)
            except InputError as error:
                key = error.thing if error.thing in table else ""
                said = {"message": error.message, "hint": error.hint, "code": error.code}
                self._add(field, index, key or error.thing, said)
                if key in ("", "name"):
                    return None
                del table[key]
            else:
                return table
        return None

    def _add(self, field: str, index: int, key: str, said: Mapping[str, Any]) -> None:
        name = self._content[field][index].get("name", "")
        section = section_of(field, index, name if isinstance(name, str) else "")
        self.flaws.append(
            {
                "pointer": "/".join(["", field, str(index), *filter(None, [key])]),
                "place": " ".join(filter(None, (section, key))),
                "message": said["message"],
                "hint": said["hint"],
                "code": said["code"],
            }
        )

    def add_found(self, problems: Iterable[Mapping[str, Any]]) -> None:
        """Add what the agent has found, but not in tables with a flaw, from which it would follow."""
        flawed = {tuple(one["pointer"].split("/")[1:3]) for one in self.flaws}
        for one in problems:
            _, field, number, *keys = one["pointer"].split("/")
            index = self._places[field][int(number)]
            if (field, str(index)) not in flawed:
                self._add(field, index, "".join(keys), one)


def _is_plain(value: object) -> bool:
    """False for dates and fractions, which no field is."""
    match value:
        case dict():
            return all(map(_is_plain, value.values()))
        case list():
            return all(map(_is_plain, value))
        case _:
            return isinstance(value, str | int)


# -- writing -----------------------------------------------------------------------------------------------------


def toml_of(answer: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of the file, without what is empty."""
    yield _HEAD
    for network in answer["networks"]:
        yield ""
        yield f"[network.{_key(network['name'])}]"
        yield from _pairs({key: value for key, value in network.items() if key != "name"})
    for field in SECTIONS:
        for item in answer.get(field, ()) if field != "networks" else ():
            yield ""
            yield _form(field)
            yield from _pairs(item)
    if answer["left_out"]:
        yield ""
        yield "# Not in this file, as they end with a host or by themselves:"
        for one in answer["left_out"]:
            yield f"# {clean(one)}"


def _pairs(table: Mapping[str, Any]) -> Iterator[str]:
    for key, value in table.items():
        if value not in (None, "", []):
            yield f"{key} = {_value(value)}"


def _key(name: str) -> str:
    return name if name.isascii() and name.replace("-", "").replace("_", "").isalnum() else _value(name)


def _value(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case list():
            return f"[{', '.join(map(_value, value))}]"
        case dict():
            return f"{{ {', '.join(f'{key} = {_value(one)}' for key, one in value.items())} }}"
        case str():
            # JSON's escapes are TOML's, but for DEL and for pairs of surrogates, which the first option avoids.
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case _:
            return str(value)
