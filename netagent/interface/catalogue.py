"""All commands, in the order in which users need them."""

from __future__ import annotations

from types import ModuleType
from typing import Any, Final

from netagent.interface import (
    additions,
    cluster,
    containers,
    description,
    encryption,
    questions,
    ring_keys,
    services,
    this_host,
    tokens,
)
from netagent.interface.command import Command

GROUPS: Final = (
    cluster,
    containers,
    services,
    additions,
    description,
    questions,
    tokens,
    ring_keys,
    encryption,
    this_host,
)


def commands_of(group: ModuleType) -> list[type[Command[Any]]]:
    """Return the commands that a module declares."""
    kinds = [one for one in vars(group).values() if isinstance(one, type) and issubclass(one, Command)]
    return [one for one in kinds if "declaration" in vars(one) and one.__module__ == group.__name__]


COMMANDS: Final = [command for group in GROUPS for command in commands_of(group)]
