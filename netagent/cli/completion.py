"""The completion scripts of bash, zsh and fish: commands and options by shtab, and names that the agent knows.

A script asks the agent by running a list with `-o name` when the user presses the tab key, for at most a second, and
is silent when that fails. Names come from other hosts, and bash and zsh would expand some of them: a script keeps
only those made of characters that mean nothing to a shell.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any, Final

import shtab

from netagent.cli.grammar import whole_grammar
from netagent.cli.parser import Parser

_LISTS: Final = {
    "endpoints": "endpoints --local",
    "services": "services --local",
    "networks": "network ls",
    "members": "members",
    "tokens": "token ls",
}
"""What a script runs for the names of a kind. Other hosts are not asked: that may take seconds."""

_KINDS: Final = {
    "ENDPOINT": "endpoints",
    "NAME|ID|IP|MAC": "endpoints",
    "[FROM] TO[:PORT]": "endpoints",
    "SERVICE[:ALIAS]": "services",
    "NAME|IP": "services",
    "NET": "networks",
    "HOST": "members",
}
"""By metavar."""

_KINDS_OF_NAMES: Final = {
    "endpoints service": "services",
    "services service": "services",
    "flows source": "services",
    "service inspect service": "services",
    "service set service": "services",
    "service rm service": "services",
    "service publish service": "services",
    "service unpublish service": "services",
    "network inspect network": "networks",
    "network set network": "networks",
    "network rm network": "networks",
    "token revoke token": "tokens",
}
"""By command and field, where the metavar NAME may also be a new name."""

_PLAIN: Final = "[A-Za-z0-9][A-Za-z0-9._-]{0,252}"
_READ: Final = f"2>/dev/null | LC_ALL=C grep -xE '{_PLAIN}' | LC_ALL=C sort -u"


def completion_script(shell: str) -> str:
    """Return the script for `bash`, `zsh` or `fish`."""
    grammar = whole_grammar()
    for parser in _parsers(grammar):
        for action in parser._actions:  # noqa: SLF001 - argparse has no public way to list them
            kind = _kind(parser, action)
            if kind is not None:
                function = f"_netagent_{kind}"
                action.complete = {"bash": function, "zsh": function, "fish": f"({function})"}  # type: ignore[attr-defined]
    return str(shtab.complete(grammar, shell=shell, preamble=_functions(shell)))


def _parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:  # noqa: SLF001
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            for below in dict.fromkeys(action.choices.values()):
                yield from _parsers(below)


def _kind(parser: argparse.ArgumentParser, action: argparse.Action) -> str | None:
    command: Any = parser.get_default("command")
    if command is None or not isinstance(parser, Parser):
        return None
    named = _KINDS_OF_NAMES.get(f"{command.declaration.command} {action.dest}")
    return named or (_KINDS.get(action.metavar) if isinstance(action.metavar, str) else None)


def _functions(shell: str) -> str:
    return "\n".join(_function(shell, f"_netagent_{kind}", words) for kind, words in _LISTS.items())


def _function(shell: str, name: str, words: str) -> str:
    asked = f"timeout 1 netagent {words} -o name {_READ}"
    if shell == "bash":
        return (
            f"{name}() {{\n  local name\n  while IFS= read -r name; do\n"
            f'    [[ $name == "$1"* ]] && printf \'%s\\n\' "$name"\n  done < <({asked})\n}}'
        )
    if shell == "zsh":
        return f'{name}() {{\n  local -a names\n  names=(${{(f)"$({asked})"}})\n  compadd -a names\n}}'
    return f"function {name}\n  {asked.replace('LC_ALL=C', 'env LC_ALL=C')}\nend"
