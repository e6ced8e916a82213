"""What an asker may do, and how a request is held against it.

Each command declares its role, and a field that does more than its command declares its own (netagent.interface). A
command without a role of its own needs that of administrators, so a new command is closed until it says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from netagent.errors import ForbiddenError
from netagent.interface.command import Command
from netagent.interface.role import Role
from netagent.model.ids import NetworkId


@dataclass(frozen=True, slots=True)
class Grant:
    """What an asker may do."""

    role: Role
    by: str
    """What grants it, as a refusal names it: `the read-only socket`, `the token grafana`."""
    networks: frozenset[NetworkId] | None = None
    """It reaches only these. None: no limit."""
    token_id: str | None = None
    """None: a socket grants it."""
    token_name: str | None = None


FULL: Final = Grant(Role.SOCKET, "the agent's socket")
"""Of a program that may open the agent's socket."""
READ_ONLY: Final = Grant(Role.READ, "the read-only socket")
"""Of a program that may open the read-only socket."""


def require_command(grant: Grant, command: type[Command[Any]]) -> None:
    """Raise ForbiddenError if the role is too low for the command."""
    declared = command.declaration
    if grant.role < declared.role:
        raise _too_low(grant, declared.role, f"`netagent {declared.command}`")


def require_fields(grant: Grant, request: Command[Any]) -> None:
    """Raise ForbiddenError if the role is too low for a field that was given."""
    given = vars(request)
    for one in type(request).arguments():
        if one.role is not None and grant.role < one.role and given.get(one.attribute):
            called = one.words[-1] if one.words else f"the {one.field}"
            command = type(request).declaration.command
            raise _too_low(grant, one.role, f"{called} of `netagent {command}`")


def _too_low(grant: Grant, needed: Role, what: str) -> ForbiddenError:
    if needed is Role.SOCKET:
        return ForbiddenError(
            f"{what} works only by the agent's own socket, and not by {grant.by}",
            thing=what,
            hint="type it on the host itself, as root or as a member of the group netagent",
        )
    return ForbiddenError(
        f"{what} needs the role {needed.word}, and {grant.by} gives {grant.role.word}",
        thing=what,
        hint="ask as root, as a member of the group netagent, or with a token of that role",
    )
