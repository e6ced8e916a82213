"""`netagent export` and `netagent apply`: the cluster as a TOML file.

    [network.app]                a table for each network, with its options
    [[service]]                  each addition to an outside service
    [[name]]                     each own name

The keys are the fields of the API. This file only reads and writes TOML and asks for agreement; the agent compares.
"""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from netagent.cli.client_commands import DONE, NO, CommandContext, runs
from netagent.cli.render import clean
from netagent.errors import InputError
from netagent.interface.description import ApplyCommand, ExportCommand

MAX_FILE_BYTES: Final = 1 << 20
_HEAD: Final = "# Written by `netagent export`. `netagent apply FILE` makes a cluster like this."
_SECTIONS: Final = ("network", "service", "name")


@runs(ExportCommand)
def export(session: CommandContext, request: ExportCommand) -> int:
    """Print the file."""
    answer, printer = session.client.send(request), session.printer
    if printer.is_machine:
        printer.json(answer)
        return DONE
    printer.lines(toml_of(answer))
    return DONE


@runs(ApplyCommand)
def apply(session: CommandContext, request: ApplyCommand) -> int:
    """Show the differences, ask, and make the cluster like the file."""
    content = content_untrusted(_text(request.file), request.file)
    shown = session.client.send(ApplyCommand(**content, dry_run=True))
    printer, changes = session.printer, shown["changes"]
    if request.dry_run or not changes:
        printer.one(
            {**shown, "applied": not request.dry_run}, lambda: _lines(shown, request.file), name="applied"
        )
        return NO if changes else DONE
    if not request.yes:
        _ask(shown, request.file)
    answer = session.client.send(ApplyCommand(**content))
    # What was agreed to is on the screen; without a question the list is the report.
    printer.one(
        answer,
        lambda: _lines(answer, request.file) if request.yes else [_done(answer["changes"])],
        name="applied",
    )
    return DONE


def _ask(shown: Mapping[str, Any], file: str) -> None:
    """Raise InputError unless the user agrees."""
    if file == "-" or not sys.stdin.isatty():
        raise InputError(
            f"{len(shown['changes'])} changes need agreement, and no one can be asked here",
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
    return f"made {len(changes)} change{'' if len(changes) == 1 else 's'}"


# -- reading -----------------------------------------------------------------------------------------------------


def _text(file: str) -> str:
    try:
        if file == "-":
            data = sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
        else:
            with open(file, "rb") as stream:  # noqa: PTH123 - pathlib takes longer to import
                data = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise InputError(
            f"cannot read {file}: {error.strerror}",
            thing=file,
            hint="give a file that `netagent export` wrote",
        ) from None
    if len(data) > MAX_FILE_BYTES:
        raise InputError(
            f"{file} is larger than {MAX_FILE_BYTES} bytes", thing=file, hint="divide it into several files"
        )
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise InputError(f"{file} is no text in UTF-8", thing=file, hint="write it as TOML") from None


def content_untrusted(text: str, file: str) -> dict[str, list[Any]]:
    """Return the fields of an apply. Raises InputError."""
    try:
        read = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # a number may have too many digits
        said = str(error) or "it is nested too deeply"
        raise InputError(f"{file} is no TOML: {said}", thing=file, hint="see `netagent export`") from None
    for key in read:
        if key not in _SECTIONS:
            raise InputError(
                f"{file} has a section {key[:80]!r}, which means nothing here",
                thing=key[:80],
                hint="write [network.NAME], [[service]] or [[name]]",
            )
    networks, services, names = (read.get(section) for section in _SECTIONS)
    _check(file, networks is None or isinstance(networks, dict), "network", "[network.NAME]")
    tables = (networks or {}).items()
    _check(file, all(isinstance(table, dict) for _, table in tables), "network", "[network.NAME]")
    _check(
        file, all("name" not in table for _, table in tables), "network", "its name in [network.NAME] alone"
    )
    _check(file, _is_plain(read), "value", "texts, whole numbers, true and false")
    for section, items in (("service", services), ("name", names)):
        is_array = items is None or (isinstance(items, list) and all(isinstance(one, dict) for one in items))
        _check(file, is_array, section, f"[[{section}]]")
    return {
        "networks": [{"name": name, **table} for name, table in tables],
        "services": services or [],
        "names": names or [],
    }


def _check(file: str, is_right: object, section: str, form: str) -> None:
    if not is_right:
        raise InputError(f"{file} has a {section} in another form", thing=section, hint=f"write {form}")


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
    for section in ("service", "name"):
        for item in answer[f"{section}s"]:
            yield ""
            yield f"[[{section}]]"
            yield from _pairs(item)
    if answer["left_out"]:
        yield ""
        yield "# Not in this file, as they end with a host or by themselves:"
        for one in answer["left_out"]:
            yield f"# {clean(one)}"


def _pairs(table: Mapping[str, Any]) -> Iterator[str]:
    for key, value in table.items():
        if value not in ("", []):
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
