"""The overview of `netagent` and `netagent --help`: the commands in the order in which users need them."""

from __future__ import annotations

from collections.abc import Iterator

from netagent.interface import additions, containers, services, this_host, tokens
from netagent.interface.catalogue import GROUPS, commands_of

SUMMARY = "Service discovery and overlay networks for containers, without a central server."

FIRST_STEPS = """\
  sudo netagent agent &                                       on every host
  sudo netagent init; sudo netagent invite                    on the first
  sudo netagent join                                          on the others, with the token
  sudo netagent network create app
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


def _groups() -> Iterator[str]:
    for group in GROUPS:
        lines = [group.TITLE]
        if group is containers:
            lines.append("  network     create, ls, inspect, rm, connect, disconnect, prune")
        if group is services:
            lines.append("  service     create, set, inspect, rm")
        if group is additions:
            lines.append("  service     add")
            lines.append("  name        add, ls, rm")
        if group is this_host:
            lines.append("  config      check, show")
        if group is tokens:
            lines.append("  token       create, ls, revoke")
        for command in commands_of(group):
            declared = command.declaration
            others = ", ".join([*declared.aliases, *filter(None, [declared.also])])
            line = f"  {declared.name:<12}{declared.brief}"
            if not declared.within:
                lines.append(f"{line:<53}(also: {others})" if others else line)
        yield "\n".join(lines) + "\n"
