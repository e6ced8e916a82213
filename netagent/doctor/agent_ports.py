"""Does an agent that gossip takes for dead accept connections? Tells a dead agent from a blocked port.

Both ports of an agent accept TCP. What connecting to them comes to says more than the gossip's silence: a port that
refuses has no agent behind it, one that accepts has, and one that says nothing is blocked or its host is gone.
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
MAX_HOSTS: Final = 16


class PortState(Enum):
    """What connecting came to."""

    OPEN = "accepts connections"
    CLOSED = "refuses connections"
    SILENT = "does not answer"


async def try_hosts(addresses: Mapping[str, str], ports: tuple[int, ...]) -> dict[str, tuple[PortState, ...]]:
    """Connect to the ports at the address of each of the first MAX_HOSTS hosts, all at once."""
    found: dict[str, list[PortState]] = {
        name: [PortState.SILENT] * len(ports) for name in list(addresses)[:MAX_HOSTS]
    }

    async def connect(name: str, place: int) -> None:
        found[name][place] = await _connect(addresses[name], ports[place])

    with trio.move_on_after(PATIENCE_S):
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


def say_why_dead(
    name: str, states: tuple[PortState, ...], ports: tuple[int, ...], *, ends: tuple[str, str], kernel: str
) -> tuple[str, str]:
    """(message, cure) of an agent that gossip takes for dead. `ports`: membership, records."""
    membership, records = ports
    here, there = ends
    if PortState.OPEN in states:
        blocked = [port for port, state in zip(ports, states, strict=True) if state is not PortState.OPEN]
        told = " and ".join(
            f"TCP port {port} {state.value}" for port, state in zip(ports, states, strict=True)
        )
        lost = f"TCP port {blocked[0]}" if blocked else f"UDP port {membership}"
        cure = f"let UDP and TCP ports {membership} and {records} pass between {here} and {there}; {lost} is missing"
        return f"the agent of {name} runs, and gossip takes it for dead: {told}; {kernel}", cure
    if PortState.CLOSED in states:
        return (
            f"the agent of {name} does not run: {there} refuses connections to its ports; {kernel}",
            "start the agent there",
        )
    return (
        f"the agent of {name} does not answer at TCP ports {membership} and {records} of {there}; {kernel}",
        f"see to that host; if its agent runs, let UDP and TCP ports {membership} and {records} pass",
    )
