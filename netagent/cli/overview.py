"""The overview of `netagent` and `netagent --help`: the commands in the order in which users need them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from netagent.interface.catalogue import GROUPS, commands_of
from netagent.interface.command import Command

SUMMARY = "Service discovery and overlay networks for containers, without a central server."

FIRST_STEPS = """\
  sudo netagent init --network app                            on the first host, where its agent runs
  sudo netagent add root@h2                                   there, for each further host, over ssh
  sudo netagent attach netns:web1 --network app --service web
"""

_OPTIONS = """\
Options, before or after the command
  -o FORM        table, wide, json, ndjson or name     (--json is short for -o json)
  --socket PATH  the agent to ask                      (or NETAGENT_SOCKET)
                 another host's: https://HOST:7958 with --token-file FILE and --ca-file FILE
  --debug        show a traceback when something goes wrong
  -h, --help     this help; `netagent COMMAND --help` has examples
"""


def overview() -> str:
    """Return the text."""
    head = f"usage: netagent [OPTION…] COMMAND …\n\n{SUMMARY}\n\n"
    return head + "\n".join([*_groups(), _OPTIONS, f"First steps\n{FIRST_STEPS}"])


def words_after(word: str, commands: Iterable[type[Command[Any]]]) -> list[str]:
    """Return what may follow a word such as `network`."""
    return [c.declaration.name for c in commands if c.declaration.within == word]


def _groups() -> Iterator[str]:
    for group in GROUPS:
        declared_here = commands_of(group)
        words = sorted({one.declaration.within for one in declared_here} - {""})
        lines = [group.TITLE]
        lines += [f"  {word:<12}{', '.join(words_after(word, declared_here))}" for word in words]
        for command in declared_here:
            declared = command.declaration
            others = ", ".join([*declared.aliases, *filter(None, [declared.also])])
            line = f"  {declared.name:<12}{declared.brief}"
            if not declared.within:
                lines.append(f"{line:<53}(also: {others})" if others else line)
        yield "\n".join(lines) + "\n"
