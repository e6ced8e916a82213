"""Try whether an agent accepts connections, to tell a dead agent from a blocked port, also for live agents.

Both ports of an agent accept TCP. The result of connecting says more than the gossip's silence: if a port refuses, no
agent listens there; if it accepts, the agent runs; if it does not answer, it is blocked or its host is down.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Mapping
from enum import Enum
from typing import Final

import trio

PATIENCE_S: Final = 0.5
"""For all ports of all hosts together: a connection takes one round trip."""
LIVE_PATIENCE_S: Final = 1.5
"""The same for live agents, for which a silent port is a finding: a lost packet is sent again after 1 s."""
MAX_HOSTS: Final = 16
"""Bound of hosts whose agents are dead, tried for `status`, or alive, for `doctor`; beyond it: others are not
tried."""


class PortState(Enum):
    """The result of connecting."""

    OPEN = "accepts connections"
    CLOSED = "refuses connections"
    SILENT = "does not answer"


async def try_hosts(
    addresses: Mapping[str, str], ports: tuple[int, ...], patience_s: float = PATIENCE_S
) -> dict[str, tuple[PortState, ...]]:
    """Connect to the ports at the address of each of the first MAX_HOSTS hosts, all at once."""
    found: dict[str, list[PortState]] = {
        name: [PortState.SILENT] * len(ports) for name in list(addresses)[:MAX_HOSTS]
    }

    async def connect(name: str, place: int) -> None:
        found[name][place] = await _connect(addresses[name], ports[place])

    with trio.move_on_after(patience_s):
        async with trio.open_nursery() as nursery:
            for name in found:
                for place in range(len(ports)):
                    nursery.start_soon(connect, name, place)
    return {name: tuple(states) for name, states in found.items()}


async def _connect(address: str, port: int) -> PortState:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with trio.socket.socket(family, socket.SOCK_STREAM) as sock:
        try:
            await sock.connect((address, port))
        except OSError as error:
            return PortState.CLOSED if error.errno == errno.ECONNREFUSED else PortState.SILENT
    return PortState.OPEN


def start_agent(name: str) -> str:
    """Return what to type where a host's agent does not run."""
    return f"on {name}: `sudo systemctl start netagent`"


def say_why_dead(
    name: str, states: tuple[PortState, ...], ports: tuple[int, ...], *, ends: tuple[str, str], kernel: str
) -> tuple[str, str]:
    """Return (message, cure) for an agent that gossip considers dead. `ports`: membership, records."""
    membership, records = ports
    here, there = ends
    if PortState.OPEN in states:
        blocked = [port for port, state in zip(ports, states, strict=True) if state is not PortState.OPEN]
        told = " and ".join(
            f"TCP port {port} {state.value}" for port, state in zip(ports, states, strict=True)
        )
        lost = f"TCP port {blocked[0]}" if blocked else f"UDP port {membership}"
        cure = f"allow UDP and TCP ports {membership} and {records} between {here} and {there}; {lost} is blocked"
        return f"the agent of {name} runs, but gossip considers it dead: {told}; {kernel}", cure
    if PortState.CLOSED in states:
        return (
            f"the agent of {name} does not run: {there} refuses connections to its ports; {kernel}",
            start_agent(name),
        )
    return (
        f"the agent of {name} does not answer at TCP ports {membership} and {records} of {there}; {kernel}",
        f"check that host; if its agent runs, allow UDP and TCP ports {membership} and {records}",
    )


def say_ports_closed(
    name: str, states: tuple[PortState, ...], ports: tuple[int, ...], ends: tuple[str, str]
) -> tuple[str, str] | None:
    """Return (message, cure) for an agent that gossip hears but whose ports are not all reachable by TCP, else None.

    Gossip needs only UDP, which also carries small numbers of changes, so nothing else shows this.
    """
    closed = [
        f"TCP port {port} of {name} {state.value}"
        for port, state in zip(ports, states, strict=True)
        if state is not PortState.OPEN
    ]
    if not closed:
        return None
    here, there = ends
    message = f"{' and '.join(closed)}, though its agent is alive: changes there arrive here late, or never"
    wanted = " and ".join(map(str, ports))
    return message, f"allow UDP and TCP ports {wanted} between {here} and {there}"
