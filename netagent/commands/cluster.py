"""Commands of the cluster: start one, join it, leave it, and who belongs to it."""

from __future__ import annotations

import datetime as dt
import platform
import re

from netagent import __version__
from netagent.commands.handlers import answers
from netagent.commands.presenters import presenter, sight_of
from netagent.control.request_parsing import optional_name, seeds_of
from netagent.daemon.agent import Agent
from netagent.endpoints.drain import DRAIN_S
from netagent.errors import InputError
from netagent.interface import cluster as asked
from netagent.interface import schema
from netagent.interface.questions import VersionCommand
from netagent.registry.view import AgentState
from netgossip.errors import WireError
from netgossip.join.invitation import ID_BYTES, parse_token_untrusted


@answers(VersionCommand)
async def version(_agent: Agent, _request: VersionCommand) -> schema.AgentVersion:
    """Return the agent's version."""
    return {"version": __version__, "python": platform.python_version(), "kernel": platform.release()}


@answers(asked.InitCommand)
async def init(agent: Agent, request: asked.InitCommand) -> schema.Initialised:
    """Start a cluster; without a name, the one of the configuration."""
    created = await agent.init(
        optional_name(request.cluster, "cluster"),
        encrypt=request.encrypt,
        allow_unsigned=request.allow_unsigned,
    )
    return {"cluster": _cluster_part(agent), "created": created}


@answers(asked.InviteCommand)
async def invite(agent: Agent, request: asked.InviteCommand) -> schema.Invitation:
    """Make a token."""
    token = agent.invite(request.ttl_s, request.uses)
    expires = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=request.ttl_s)
    return {
        "id": token.invitation_id.hex(),
        "token": token.render(),
        "ttl_s": request.ttl_s,
        "uses": request.uses,
        "expires_at": expires.isoformat(timespec="seconds").replace("+00:00", "Z"),
    }


@answers(asked.UninviteCommand)
async def uninvite(agent: Agent, request: asked.UninviteCommand) -> schema.Uninvited:
    """Revoke invitations."""
    if request.invitation and not re.fullmatch(rf"[0-9a-f]{{{2 * ID_BYTES}}}", request.invitation):
        raise InputError(
            f"{request.invitation!r} is no id of an invitation",
            thing="invitation",
            hint="`netagent invite --json` shows it; without ID all invitations of this host are revoked",
        )
    return {"revoked": agent.uninvite(bytes.fromhex(request.invitation) if request.invitation else None)}


@answers(asked.JoinCommand)
async def join(agent: Agent, request: asked.JoinCommand) -> schema.Joined:
    """Join a cluster. The addresses are tried before those in the token and those heard by mDNS."""
    addresses = seeds_of(request.addresses)
    try:
        token = parse_token_untrusted(request.token.strip())
    except WireError as error:
        raise InputError(str(error), thing="token", hint="make a new one with `netagent invite`") from None
    via = await agent.join(addresses, token)
    hosts = agent.member().live.view.hosts.values()
    members = sum(host.agent is not AgentState.LEFT for host in hosts)
    return {"cluster": _cluster_part(agent), "via": via, "members": members}


@answers(asked.LeaveCommand)
async def leave(agent: Agent, request: asked.LeaveCommand) -> schema.Left:
    """Leave the cluster for good."""
    cluster = _cluster_part(agent)
    detached = await agent.leave(DRAIN_S if request.drain_s is None else request.drain_s)
    return {"cluster": cluster, "detached": detached}


@answers(asked.ForgetCommand)
async def forget(agent: Agent, request: asked.ForgetCommand) -> schema.ForgetAnswer:
    """Evict hosts that are gone for good and take over the addresses they owned."""
    if not request.hosts and not request.dead_for_s:
        raise InputError(
            "no host to forget was given",
            thing="hosts",
            hint="name hosts, or use --dead-for 72h for all hosts that have been silent for that long",
        )
    cluster = agent.member()
    present = presenter(cluster)
    done = await cluster.eviction.forget(request.hosts, dead_for_s=request.dead_for_s, force=request.force)
    return {
        "hosts": [present.gone(host) for host in done.hosts],
        "addresses": done.address_count,
        "unheard": list(done.unheard),
    }


@answers(asked.RevokeCommand)
async def revoke(agent: Agent, request: asked.RevokeCommand) -> schema.RevokeAnswer:
    """Shut out hosts that may act for an attacker."""
    cluster = agent.member()
    present = presenter(cluster)
    done = await cluster.eviction.revoke(request.hosts)
    return {
        "hosts": [present.gone(host) for host in done.hosts],
        "addresses": done.address_count,
        "unheard": list(done.unheard),
    }


@answers(asked.WithdrawCommand)
async def withdraw(agent: Agent, request: asked.WithdrawCommand) -> schema.WithdrawAnswer:
    """Withdraw the names of this host on all hosts."""
    drain_s = DRAIN_S if request.drain_s is None else request.drain_s
    told = await agent.member().leaving.withdraw(drain_s)
    return {"name": agent.config.name, "told": told}


@answers(asked.MembersCommand)
async def members(agent: Agent, _request: asked.MembersCommand) -> schema.Listing[schema.MemberInfo]:
    """Return all hosts."""
    cluster = agent.member()
    present, sight = presenter(cluster), sight_of(cluster)
    return {"items": [present.member(host, sight(i)) for i, host in cluster.live.view.hosts.items()]}


def _cluster_part(agent: Agent) -> schema.ClusterPart:
    keys = agent.member().keys
    return {"id": keys.cluster_id, "name": keys.cluster, "domain": keys.domain}
