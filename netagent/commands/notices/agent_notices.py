"""Warnings of `status` about machines that the cluster refuses, and about dead agents whose address says why. Pure.

An agent that gossip considers dead may run all the same: its ports then accept connections, which looks like a
blocked UDP port. Three causes can be told from what this host has heard, and come before a look at the ports: the
machine at the address is another member now, it uses another member's identity, or its packets are refused because of
their key.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from netagent.interface import schema
from netagent.registry.view import AgentState, HostView, RegistryView

CLONED: Final = "on one of the two, stop the agent, remove its state folder, and join again"

_REASONS: Final = {
    "wrong-key": "they are sealed with a key that this host does not have",
    "other-label": "they are of another cluster",
    "no-label": "they name no cluster",
    "not-encrypted": "they are not encrypted",
}
_REJOIN: Final = "`netagent leave`, then `netagent join` with a token from"


def refused_notices(view: RegistryView, refused: Mapping[str, str]) -> Iterable[schema.Notice]:
    """Warn of each address whose packets are refused. `refused`: address -> reason."""
    others = [
        host
        for host in view.hosts.values()
        if host.host_id != view.local and host.address and host.agent is not AgentState.LEFT
    ]
    is_odd = len(others) > 1 and all(refused.get(host.address) == "wrong-key" for host in others)
    for address, reason in refused.items():
        names = sorted(host.unique_name for host in others if host.address == address)
        whose = f" ({names[0]})" if names else ""
        why = f"{reason}, {_REASONS[reason]}" if reason in _REASONS else reason
        if is_odd and names:
            cure = f"all other members use another key than this host: here {_REJOIN} a member"
        else:
            cure = f"if it should be a member: there {_REJOIN} here"
        yield {
            "code": "stranger",
            "message": f"packets from {address}{whose} are refused: {why}",
            "cure": cure,
        }


def known_causes(
    view: RegistryView, dead: Iterable[HostView], refused: Mapping[str, str], clones: Mapping[str, str]
) -> dict[str, schema.Notice]:
    """Return a notice for each dead agent whose cause is known without a look at its ports, by the host's name.

    `refused`: address -> why its packets are refused. `clones`: address -> the host whose identity that machine uses.
    """
    present = {
        host.address: host.unique_name
        for host in view.hosts.values()
        if host.address and (host.agent is AgentState.ALIVE or host.host_id == view.local)
    }
    found: dict[str, schema.Notice] = {}
    for host in dead:
        name, address = host.unique_name, host.address
        if not address:
            continue
        if address in clones:
            message = (
                f"the machine at {address}, which was {name}, uses the identity of {clones[address]} now"
            )
            cure = CLONED
        elif address in present:
            message = f"the agent of {name} is gone: {present[address]} has its address {address} now"
            cure = f"`netagent forget {name}` if it is an older installation of {present[address]} or gone for good"
        elif address in refused:
            reason = refused[address]
            why = f"{reason}, {_REASONS[reason]}" if reason in _REASONS else reason
            message = (
                f"gossip considers the agent of {name} dead, and refuses packets from its address: {why}"
            )
            cure = f"on {name}: {_REJOIN} here"
        else:
            continue
        found[name] = {"code": "agent-dead", "message": message, "cure": cure}
    return found
