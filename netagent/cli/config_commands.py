"""`netagent config check` and `netagent config show`: the configuration as an agent started here would read it.

The shown configuration is TOML that the agent reads to the same values; a test reads it back.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from netagent.cli.client_commands import DONE, CommandContext, runs
from netagent.cli.render import Column, clean
from netagent.config import DEFAULT_FILE, KEYS, LoadedConfig, load_with_origins, unknown_variables
from netagent.interface.this_host import ConfigCheckCommand, ConfigShowCommand

_COLUMNS = (
    Column("KEY", lambda item: str(item["name"])),
    Column("VALUE", lambda item: _toml(item["value"])),
    Column("ORIGIN", lambda item: str(item["origin"])),
)


@runs(ConfigCheckCommand)
def check(session: CommandContext, request: ConfigCheckCommand) -> int:
    """Say whether the agent would take the configuration."""
    loaded, printer = _loaded(request.config), session.printer
    files = [str(file) for file in loaded.files]
    ignored = unknown_variables(os.environ)
    printer.one(
        {"schema": 1, "valid": True, "files": files, "warnings": ignored},
        lambda: [f"The configuration is valid; it {_read(files)}."],
        name="valid",
    )
    if not printer.is_machine:
        for sentence in ignored:
            print(clean(f"netagent: {sentence}"), file=sys.stderr)
    return DONE


@runs(ConfigShowCommand)
def show(session: CommandContext, request: ConfigShowCommand) -> int:
    """Print each key's value, as a configuration file or as a table with origins."""
    loaded, printer = _loaded(request.config), session.printer
    items = [
        {
            "name": key.name,
            "value": _plain(getattr(loaded.config, key.field)),
            "origin": loaded.origins[key.name],
        }
        for key in KEYS
    ]
    if request.origin or printer.form != "table":
        printer.items(items, _COLUMNS, empty="")
    else:
        printer.lines(_file(items))
    return DONE


def keys_of(loaded: LoadedConfig) -> list[dict[str, Any]]:
    """Return each key with its value and its origin."""
    return [
        {
            "name": key.name,
            "value": _plain(getattr(loaded.config, key.field)),
            "origin": loaded.origins[key.name],
        }
        for key in KEYS
    ]


def _loaded(file: str | None) -> LoadedConfig:
    return load_with_origins(Path(file) if file is not None else None, {}, os.environ)


def _read(files: list[str]) -> str:
    return (
        f"is read from {', '.join(map(clean, files))}"
        if files
        else f"has no file: {DEFAULT_FILE} does not exist"
    )


def _file(items: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the lines of a configuration file with these values."""
    table = ""
    for item in items:
        within, _, name = item["name"].rpartition(".")
        if within != table:
            table = within
            yield ""
            yield f"[{table}]"
        yield f"{name} = {_toml(item['value'])}"


def _plain(value: Any) -> Any:
    """Return it as JSON has it; what is not set is empty text, as in a file."""
    if isinstance(value, tuple):
        return list(value)
    if value is None:
        return ""
    return str(value) if isinstance(value, Path) else value


def _toml(value: Any) -> str:
    """Return a value as TOML has it: as JSON, but for U+007F, which only TOML escapes. Other characters stay as they
    are: TOML knows no surrogates, by which JSON escapes those beyond U+FFFF."""
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
