"""The completion scripts of bash, zsh and fish: commands and options by shtab, and names that the agent knows.

A script asks the agent by running a list with `-o name` when the user presses the tab key, for at most a second, and
is silent when that fails. Names come from other hosts, and bash and zsh would expand some of them: a script keeps
only those made of characters that mean nothing to a shell.

What shtab writes for zsh completes `--option VALUE`, and the first argument of several: `_for_zsh` adds
`--option=VALUE` and the others.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from typing import Any, Final

import shtab

from netagent.cli.grammar import whole_grammar
from netagent.cli.parser import Parser

_LISTS: Final = {
    "endpoints": ("endpoints --local",),
    "services": ("services --local",),
    "networks": ("network ls",),
    "members": ("members",),
    "names": ("name ls",),
    "tokens": ("token ls",),
    "keys": ("keys list",),
    "things": ("endpoints --local", "services --local", "network ls", "members"),
}
"""What a script runs for the names of a kind. Other hosts are not asked: that may take seconds."""

_KINDS: Final = {
    "ENDPOINT": "endpoints",
    "NAME|ID|IP|MAC": "things",
    "[FROM] TO[:PORT]": "endpoints",
    "SERVICE[:ALIAS]": "services",
    "NAME|IP": "services",
    "NET": "networks",
    "HOST": "members",
    "KEY": "keys",
}
"""By metavar."""

_FILES: Final = {"FILE": shtab.FILE, "FILE|-": shtab.FILE, "PATH": shtab.FILE, "DIR": shtab.DIRECTORY}
"""What is a file, by metavar."""

_KINDS_OF_NAMES: Final = {
    "attach service": "services",
    "publish service": "services",
    "unpublish service": "services",
    "lookup name": "services",
    "name rm name": "names",
    "network disconnect target": "endpoints",
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
        if parser.description:
            # shtab shows the first line, which for some commands ends within a sentence.
            parser.description = _first_sentence(parser.description)
        for action in parser._actions:  # noqa: SLF001 - argparse has no public way to list them
            kind = _kind(parser, action)
            if kind is not None:
                function = f"_netagent_{kind}"
                action.complete = {"bash": function, "zsh": function, "fish": f"({function})"}  # type: ignore[attr-defined]
            elif isinstance(action.metavar, str) and action.metavar in _FILES:
                action.complete = _FILES[action.metavar]  # type: ignore[attr-defined]
    script = str(shtab.complete(grammar, shell=shell, preamble=_functions(shell)))
    return _for_zsh(script) if shell == "zsh" else script


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


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=[.:])\s", " ".join(text.split()), maxsplit=1)[0].rstrip(".:")


def _for_zsh(script: str) -> str:
    """Return the script with `--option=VALUE` and with completion of each argument of several.

    Colons in metavars are escaped: in zsh the next part would begin there.
    """
    lines = []
    for line in script.splitlines(keepends=True):
        option = re.fullmatch(r'( +.*--[\w-]+)("|\}"|)(\[.*\]):(.+):([^:]*"\n)', line)
        if option:
            name, ends, text, metavar, action = option.groups()
            line = f"{name}={ends}{text}:" + metavar.replace(":", r"\:") + f":{action}"  # noqa: PLW2901
        lines.append(re.sub(r'^  "\(\*\)::?', '  "*:', line))
    # `source <(netagent completion zsh)` registers the function as `eval "$(netagent completion zsh)"` does.
    return "".join(lines).replace("$zsh_eval_context[-1] == eval ", "$zsh_eval_context[-1] == (eval|file) ")


def _functions(shell: str) -> str:
    return "\n".join(_function(shell, f"_netagent_{kind}", lists) for kind, lists in _LISTS.items())


def _function(shell: str, name: str, lists: tuple[str, ...]) -> str:
    commands = [f"netagent {words} -o name" for words in lists]
    together = commands[0] if len(commands) == 1 else f"sh -c '{'; '.join(commands)}'"
    asked = f"timeout 1 {together} {_READ}"
    if shell == "bash":
        return (
            f"{name}() {{\n  local name\n  while IFS= read -r name; do\n"
            f'    [[ $name == "$1"* ]] && printf \'%s\\n\' "$name"\n  done < <({asked})\n}}'
        )
    if shell == "zsh":
        return f'{name}() {{\n  local -a names\n  names=(${{(f)"$({asked})"}})\n  compadd -a names\n}}'
    return f"function {name}\n  {asked.replace('LC_ALL=C', 'env LC_ALL=C')}\nend"
