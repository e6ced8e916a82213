"""Commands of tokens: who may use the API of this host without an account on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from netagent.interface.cluster import Watching
from netagent.interface.command import Command, argument, option, repeated, switch
from netagent.interface.notation import duration_of
from netagent.interface.role import Role

if TYPE_CHECKING:
    from netagent.interface import schema  # noqa: F401 - the answers, in quotes

TITLE = "Tokens"

MIN_TTL_S = 1.0
MAX_TTL_S = 3650 * 86400.0


class TokenCreateCommand(
    Command["schema.TokenCreated"],
    command="create",
    within="token",
    route="POST /v1/tokens",
    role=Role.SOCKET,
    brief="Print a token with which a program may use the API of this host.",
    examples="sudo netagent token create grafana --read --ttl 90d > grafana.token\n"
    "sudo netagent token create ci --attach --network app",
    creates=True,
):
    """Print a token with which a program may use the API of this host by TCP (key `http`). It is shown this once:
    the agent keeps only a digest of it. Treat it like a password."""

    name: str = argument(metavar="NAME", help="what the list and events call it")
    read: bool = switch("--read", help="it may look, and change nothing", is_exclusive=True)
    attach: bool = switch(
        "--attach",
        help="it may also attach and detach containers of this host, and link, drain, check and ping them",
        is_exclusive=True,
    )
    admin: bool = switch("--admin", help="it may do everything, except make tokens", is_exclusive=True)
    networks: list[str] = repeated(
        "--network",
        metavar="NET",
        help="it reaches only this network, and containers that are in no other one; may be repeated",
    )
    ttl_s: float | None = option(
        "--ttl",
        metavar="TIME",
        help="how long it works: 90s, 12h, 30d (default: until it is revoked)",
        read=duration_of,
        bounds=(MIN_TTL_S, MAX_TTL_S),
    )


LIST_S = 2.0
"""How often the list is read while it is watched: tokens are no records, whose changes wake a watch."""


class TokenListCommand(
    Watching["schema.Listing[schema.TokenInfo]"],
    command="ls list",
    within="token",
    route="GET /v1/tokens",
    role=Role.SOCKET,
    brief="List the tokens of this host.",
    examples="sudo netagent token ls",
    order="name",
    period_s=LIST_S,
):
    """List the tokens of this host: what each may do, until when, and when it was last used."""


class TokenRevokeCommand(
    Command["schema.TokenRevoked"],
    command="revoke rm",
    within="token",
    route="DELETE /v1/tokens/{token}",
    role=Role.SOCKET,
    brief="Make a token worthless, at once.",
    examples="sudo netagent token revoke grafana",
):
    """Make a token worthless: requests with it are refused from now on, and streams that it opened end."""

    token: str = argument(metavar="NAME", help="its name or id")
