"""Commands of tokens: make, list and revoke what grants programs the use of this host's API."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from netagent.access.tokens import Token, TokenNetwork
from netagent.commands.handlers import answers
from netagent.commands.status import tokens_warning
from netagent.control.conversion import name_of
from netagent.daemon.agent import Agent
from netagent.endpoints.find import network_called
from netagent.errors import InputError
from netagent.interface import schema
from netagent.interface.role import Role
from netagent.interface.tokens import TokenCreateCommand, TokenListCommand, TokenRevokeCommand
from netagent.model.author import current_author
from netagent.registry.view import RegistryView


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """A token to make."""

    name: str
    role: Role
    networks: tuple[TokenNetwork, ...] | None
    ttl_s: int | None


def token_request(view: RegistryView, request: TokenCreateCommand) -> TokenRequest:
    """Check what is asked of a token. Raises InputError, NotFoundError."""
    roles = {Role.READ: request.read, Role.ATTACH: request.attach, Role.ADMIN: request.admin}
    chosen = [role for role, is_chosen in roles.items() if is_chosen]
    if len(chosen) != 1:
        raise InputError("a token has one role", thing="role", hint="give --read, --attach or --admin")
    if chosen[0] is Role.ADMIN and request.networks:
        raise InputError(
            "a token with the role admin cannot be limited to networks",
            thing="--network",
            hint="give --read or --attach instead of --admin",
        )
    networks = {one.network_id: one for one in (network_called(view, name) for name in request.networks)}
    limit = tuple(TokenNetwork(one.network_id, one.unique_name) for one in networks.values())
    ttl_s = None if request.ttl_s is None else round(request.ttl_s)
    return TokenRequest(name_of(request.name, "token"), chosen[0], limit or None, ttl_s)


@answers(TokenCreateCommand)
async def create(agent: Agent, request: TokenCreateCommand) -> schema.TokenCreated:
    """Make a token. Nothing but this answer ever has it."""
    view = agent.member().live.view
    wanted = token_request(view, request)
    token, text = await agent.tokens.create(
        wanted.name, wanted.role, wanted.networks, wanted.ttl_s, current_author().account
    )
    return {**_info(agent, view, token), "token": text}


@answers(TokenListCommand)
async def list_all(agent: Agent, _request: TokenListCommand) -> schema.Listing[schema.TokenInfo]:
    """Return all tokens."""
    view = agent.member().live.view
    notices = [tokens_warning(agent)] if agent.tokens.trouble else []
    return {"items": [_info(agent, view, one) for one in agent.tokens.every()], "warnings": notices}


@answers(TokenRevokeCommand)
async def revoke(agent: Agent, request: TokenRevokeCommand) -> schema.TokenRevoked:
    """Revoke a token."""
    token = await agent.tokens.revoke(request.token)
    return {"id": token.token_id, "name": token.name}


def _info(agent: Agent, view: RegistryView, token: Token) -> schema.TokenInfo:
    used_at_s = agent.tokens.used_at_s(token)
    limit = token.networks
    return {
        "id": token.token_id,
        "name": token.name,
        "role": token.role.word,
        "networks": [] if limit is None else [_network(view, one) for one in limit],
        "is_limited": limit is not None,
        "created_at": _at(token.created_at_s),
        "created_by": token.created_by,
        "expires_at": "" if token.expires_at_s is None else _at(token.expires_at_s),
        "used_at": "" if used_at_s is None else _at(used_at_s),
    }


def _network(view: RegistryView, network: TokenNetwork) -> schema.TokenNetwork:
    found = view.networks.get(network.network_id)
    # A network of the same name that was made since is another one.
    name = network.name if found is None else found.unique_name
    return {"id": network.network_id, "name": name, "exists": found is not None}


def _at(unix_s: int) -> str:
    return datetime.fromtimestamp(unix_s, UTC).isoformat().replace("+00:00", "Z")
