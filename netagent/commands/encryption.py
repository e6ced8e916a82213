"""Commands of the encrypted data plane, and what `status` says of it."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterable, Iterator
from typing import Final

import trio

from netagent.commands.handlers import answers
from netagent.daemon.agent import Agent
from netagent.daemon.cluster import Cluster
from netagent.daemon.encryption import TunnelStatus
from netagent.datapath.host.uplink import version_of
from netagent.doctor.checks.host_checks import OVERHEAD_BYTES
from netagent.errors import NetagentError, RefusedError
from netagent.interface import schema
from netagent.interface.encryption import EncryptOffCommand, EncryptOnCommand, EncryptStatusCommand
from netagent.model.address.tunnel import WIREGUARD_BYTES
from netagent.model.encryption_switch import waited_for
from netagent.model.ids import HostId
from netagent.model.records import EncryptionRecord, EncryptionStage
from netagent.registry.encryption import is_encrypted, live_others, stage_of
from netagent.registry.view import RegistryView
from netagent.registry.views import short_id
from netagent.rpc.encryption import Ability, encode_question, parse_answer_untrusted
from netagent.tunnel.peer import has_session

ASK_S: Final = 2.0
"""How long a live host may take to say whether it can encrypt."""
MAX_ASKED: Final = 32
"""Bound of hosts that are asked at a time; beyond it: the next waits for an answer."""
OFF_WARNING_S: Final = 7 * 86_400.0
"""How long `status` warns that encryption was turned off. Its line on the data plane says so for good."""
NOT_ENCRYPTED: Final = "not encrypted"
_WORDS: Final = {stage: stage.name.lower() for stage in EncryptionStage}


@answers(EncryptOnCommand)
async def turn_on(agent: Agent, _request: EncryptOnCommand) -> schema.Encryption:
    """Ask every live host whether it can encrypt, and decide that the cluster does."""
    cluster = agent.member()
    lacking = await _lacking(cluster)
    if lacking:
        named = "; ".join(f"{name}: {one.lack}" for name, one in lacking.items())
        cures = dict.fromkeys(f"on {name}: {one.cure}" for name, one in lacking.items())
        raise RefusedError(
            f"not all hosts can encrypt, so nothing was changed: {named}",
            code="cannot-encrypt",
            thing=", ".join(lacking),
            hint="; ".join(cures),
        )
    await cluster.encryption.decide(is_on=True)
    return await _encryption(cluster)


@answers(EncryptOffCommand)
async def turn_off(agent: Agent, request: EncryptOffCommand) -> schema.Encryption:
    """Decide that the cluster sends in the clear."""
    cluster = agent.member()
    if not request.yes:
        raise RefusedError(
            "this lets all hosts of the cluster send what containers say in the clear",
            code="not-agreed",
            thing="encryption",
            hint="add --yes to agree",
        )
    await cluster.encryption.decide(is_on=False)
    return await _encryption(cluster)


@answers(EncryptStatusCommand)
async def encrypt_status(agent: Agent, _request: EncryptStatusCommand) -> schema.Encryption:
    """Return how far encryption is."""
    return await _encryption(agent.member())


async def _lacking(cluster: Cluster) -> dict[str, Ability]:
    """Return the live hosts that can't encrypt, this one included, by name."""
    view = cluster.live.view
    found: dict[HostId, Ability] = {view.local: await cluster.encryption.ability()}
    limit = trio.CapacityLimiter(MAX_ASKED)

    async def ask(host_id: HostId) -> None:
        async with limit:
            answer = await cluster.gossip.rpc.ask(host_id, encode_question(), ASK_S)
        if answer is None:
            lack = "it did not say whether it can"
            found[host_id] = Ability(lack, "upgrade netagent, if it is of an earlier release, and try again")
            return
        try:
            found[host_id] = parse_answer_untrusted(answer)
        except NetagentError as error:
            found[host_id] = Ability(f"its answer makes no sense: {error}", "upgrade netagent")

    async with trio.open_nursery() as nursery:
        for host_id in live_others(view):
            nursery.start_soon(ask, host_id)
    return {_name(view, one): ability for one, ability in sorted(found.items()) if ability.lack}


async def _encryption(cluster: Cluster) -> schema.Encryption:
    view = cluster.live.view
    decision, own = view.encryption, view.encryption_records.get(view.local)
    tunnel = await cluster.encryption.status()
    paths = list(_paths(view, tunnel))
    return {
        "state": state_of(view),
        "stage": _WORDS[stage_of(view, view.local)],
        "changed_by": decision.changed_by if decision else "",
        "changed_on": _name(view, decision.decided_on) if decision and decision.decided_on else "",
        "changed_at": _moment(decision.changed_s) if decision and decision.changed_s else "",
        "backend": tunnel.backend if tunnel else "",
        "key_age_s": None if tunnel is None or tunnel.key_age_s is None else round(tunnel.key_age_s, 1),
        "encrypted": sum(one["state"] == "encrypted" for one in paths),
        "paths": paths,
        "waiting": list(_waiting(cluster, view, own, tunnel)),
        "away": [one["host"] for one in paths if not view.hosts[HostId(one["host_id"])].is_live],
        "large_networks": list(_large_networks(cluster, view)),
        "warnings": switch_notices(cluster, tunnel),
    }


def state_of(view: RegistryView) -> str:
    """Return `off`, `on`, or on which way the cluster is, as far as its live hosts have said."""
    decision, own = view.encryption, view.encryption_records.get(view.local)
    if decision is None:
        return "off"
    others = live_others(view)
    is_settled = (
        own is not None
        and own.decision == decision.decision
        and own.stage is decision.target
        and own.is_reached
        and not waited_for(own, others)
    )
    if decision.is_on:
        return "on" if is_settled else "turning on"
    return "off" if is_settled else "turning off"


def data_plane(view: RegistryView, tunnel: TunnelStatus | None) -> str:
    """Return what `status` says in one line."""
    decision, state = view.encryption, state_of(view)
    if decision is not None and state == "off":
        return f"{NOT_ENCRYPTED}: turned off by {_author(view, decision)}"
    if tunnel is None:
        return NOT_ENCRYPTED
    by = f" ({tunnel.backend})" if tunnel.backend else ""
    keys = f", keys {_age(tunnel.key_age_s)} old" if tunnel.key_age_s is not None else ""
    connected = tunnel.connected if is_encrypted(view) else 0
    line = f"encrypted: {connected} of {tunnel.peers} paths{by}{keys}"
    return line if state == "on" else f"{line}; {state}"


def switch_notices(cluster: Cluster, tunnel: TunnelStatus | None) -> list[schema.Notice]:
    """Say that the cluster changes over, and what it waits for; and who turned encryption off."""
    view = cluster.live.view
    decision, state = view.encryption, state_of(view)
    if decision is None or state == "on":
        return []
    by = _author(view, decision)
    if state == "off":
        if time.time() - decision.changed_s > OFF_WARNING_S:
            return []
        return [
            {
                "code": "encryption-off",
                "message": f"{by} turned encryption off at {_moment(decision.changed_s)}: what containers of "
                "different hosts send each other can be read on the way",
                "cure": "if that was no mistake, nothing to do: this ends after 7 days; `netagent encrypt on` turns "
                "it on again",
            }
        ]
    waiting = list(_waiting(cluster, view, view.encryption_records.get(view.local), tunnel))
    waits = f": {'; '.join(waiting[:3])}" if waiting else ""
    return [
        {
            "code": "encryption-changes",
            "message": f"encryption is {state}, as {by} decided, and not all packets are encrypted{waits}",
            "cure": "nothing to do if it ends within a minute: see `netagent encrypt status`",
        }
    ]


def _author(view: RegistryView, decision: EncryptionRecord) -> str:
    on = f" on {_name(view, decision.decided_on)}" if decision.decided_on else ""
    return f"{decision.changed_by or 'an operator'}{on}"


def _paths(view: RegistryView, tunnel: TunnelStatus | None) -> Iterator[schema.EncryptionPath]:
    states = tunnel.states if tunnel is not None else {}
    for host_id, host in sorted(view.hosts.items(), key=lambda one: _name(view, one[0])):
        if host_id == view.local or host.agent.value == "left":
            continue
        known = states.get(host_id)
        record = view.encryption_records.get(host_id)
        if not is_encrypted(view):
            state = "clear"
        elif has_session(known):
            state = "encrypted"
        else:
            state = "no session" if host.is_live else "away"
        ago = None if known is None else known.handshake_s_ago
        endpoint = known.endpoint if known is not None else None
        yield {
            "host": _name(view, host_id),
            "host_id": host_id,
            "state": state,
            "stage": "" if record is None else _WORDS[record.stage],
            "endpoint": "" if endpoint is None else _place(*endpoint),
            "handshake_s": None if ago is None else round(ago, 1),
            "received_bytes": known.received_bytes if known is not None else 0,
            "sent_bytes": known.sent_bytes if known is not None else 0,
        }


def _waiting(
    cluster: Cluster, view: RegistryView, own: EncryptionRecord | None, tunnel: TunnelStatus | None
) -> Iterator[str]:
    if own is None or state_of(view) in {"on", "off"}:
        return
    port = cluster.config.tunnel_port
    if own.is_on and own.stage is EncryptionStage.READY and not own.is_reached:
        for host_id, host in sorted(view.hosts.items()):
            known = tunnel.states.get(host_id) if tunnel is not None else None
            if host_id != view.local and host.is_live and not has_session(known):
                yield f"no handshake with {_name(view, host_id)} yet (UDP {port} must be open between the hosts)"
    elif not own.is_on and own.stage is EncryptionStage.FENCED and cluster.encryption.keeps:
        yield "this host keeps encryption (keep_encryption = true in its configuration)"
    elif not own.is_reached:
        yield f"this host is about to be {_WORDS[own.stage]}"
    for host_id, record in sorted(waited_for(own, live_others(view)).items()):
        if record is None or record.decision != own.decision:
            yield f"{_name(view, host_id)} has not heard of it yet"
        else:
            keeps = not own.is_on and record.stage is EncryptionStage.FENCED and record.is_reached
            why = ": it keeps encryption, if that lasts (keep_encryption there)" if keeps else ""
            yield f"{_name(view, host_id)} is not {_WORDS[own.stage]} yet{why}"


def _large_networks(cluster: Cluster, view: RegistryView) -> Iterable[schema.LargeNetwork]:
    underlay = cluster.underlay
    passes_bytes = underlay.mtu_bytes - WIREGUARD_BYTES - OVERHEAD_BYTES[version_of(underlay.address)]
    for network in sorted(view.networks.values(), key=lambda one: one.unique_name):
        if network.record.mtu_bytes > passes_bytes:
            yield {
                "name": network.unique_name,
                "mtu_bytes": network.record.mtu_bytes,
                "passes_bytes": passes_bytes,
            }


def _name(view: RegistryView, host_id: HostId) -> str:
    host = view.hosts.get(host_id)
    return (host.unique_name or host.name) if host is not None else short_id(host_id)


def _place(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _moment(seconds: int) -> str:
    return f"{dt.datetime.fromtimestamp(seconds, dt.UTC):%Y-%m-%dT%H:%M:%SZ}"


def _age(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit}"
    return f"{seconds:.0f} s"
