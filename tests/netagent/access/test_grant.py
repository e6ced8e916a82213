from __future__ import annotations

from typing import Any

import pytest

from netagent.access.grant import FULL, READ_ONLY, Grant, require_command, require_fields
from netagent.errors import ForbiddenError
from netagent.interface.catalogue import COMMANDS
from netagent.interface.command import Command
from netagent.interface.containers import AttachCommand, DrainCommand
from netagent.interface.questions import PingCommand
from netagent.interface.role import Role
from netagent.interface.tokens import TokenCreateCommand, TokenListCommand

ATTACH = Grant(Role.ATTACH, "the token ci")
ROUTED = [command for command in COMMANDS if command.declaration.verb]


class Undeclared(Command["None"], command="undeclared", route="GET /v1/undeclared", brief=""):
    """A command that says nothing of roles."""


@pytest.mark.parametrize("command", ROUTED, ids=lambda command: command.declaration.command)
def test_only_what_asks_by_get_is_for_readers(command: type[Command[Any]]) -> None:
    """Ping asks by GET, and sends packets in a container's name. The list of tokens says who could be imitated."""
    declared = command.declaration
    is_reading = declared.verb == "GET" and command not in (PingCommand, TokenListCommand)
    assert (declared.role is Role.READ) == is_reading


def test_what_attaching_allows_is_chosen_one_by_one() -> None:
    """A command that does many things at once, as one that applies a file, must not be among them."""
    assert {one.declaration.command for one in ROUTED if one.declaration.role is Role.ATTACH} == {
        "attach", "check", "detach", "drain", "link", "network connect", "network disconnect", "ping", "undrain",
        "unlink",
    }  # fmt: skip


def test_tokens_make_no_tokens() -> None:
    assert {one.declaration.command for one in ROUTED if one.declaration.role is Role.SOCKET} == {
        "token create", "token ls", "token revoke",
    }  # fmt: skip
    for command in (TokenCreateCommand, TokenListCommand):
        with pytest.raises(
            ForbiddenError, match="works only by the agent's own socket, and not by the token boss"
        ):
            require_command(Grant(Role.ADMIN, "the token boss"), command)


def test_a_command_that_says_nothing_is_closed() -> None:
    for grant in (READ_ONLY, ATTACH):
        with pytest.raises(ForbiddenError):
            require_command(grant, Undeclared)
    require_command(FULL, Undeclared)


def test_a_higher_role_includes_the_lower() -> None:
    for command in ROUTED:
        require_command(FULL, command)
        if command.declaration.role is Role.READ:
            require_command(READ_ONLY, command)
            require_command(ATTACH, command)


def test_a_field_may_need_more_than_its_command() -> None:
    attach = AttachCommand(target="netns:web", network="app")
    require_fields(ATTACH, attach)
    attach = AttachCommand(target="netns:web", network="app", publish=["80:80"])
    with pytest.raises(
        ForbiddenError, match="--publish of `netagent attach` needs the role admin, and the token ci"
    ):
        require_fields(ATTACH, attach)
    require_fields(FULL, attach)
    with pytest.raises(ForbiddenError):
        require_fields(ATTACH, DrainCommand(host=True))
    require_fields(ATTACH, DrainCommand(endpoint="web", host=False))


def test_the_refusal_says_what_to_do() -> None:
    with pytest.raises(ForbiddenError) as caught:
        require_command(READ_ONLY, AttachCommand)
    assert str(caught.value) == (
        "`netagent attach` needs the role attach, and the read-only socket gives read; "
        "ask as root, as a member of the group netagent, or with a token of that role"
    )
    assert (caught.value.exit_status, caught.value.http_status) == (4, 403)
