"""Locks by key, and what attaches in progress have claimed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Hashable, Iterator
from contextlib import asynccontextmanager, contextmanager

import trio

from netagent.endpoints.published_ports import port_in_use
from netagent.errors import RefusedError
from netagent.model.ids import EndpointId, NetworkId
from netagent.model.publication import Publication
from netagent.registry.state_store import StateStore


class Locks:
    """One lock for each key in use."""

    def __init__(self) -> None:
        self._locks: dict[Hashable, trio.Lock] = {}

    def __len__(self) -> int:
        return len(self._locks)

    @asynccontextmanager
    async def held(self, key: Hashable) -> AsyncIterator[None]:
        """Hold the lock of this key during a block."""
        lock = self._locks.setdefault(key, trio.Lock())
        try:
            async with lock:
                yield
        finally:
            # If a task waits, it holds the lock by now or is about to: keep it.
            if not lock.locked() and not lock.statistics().tasks_waiting:
                self._locks.pop(key, None)


class Claims:
    """What attaches in progress have taken before the rows contain it: names, and ports of this host."""

    def __init__(self, live: StateStore) -> None:
        self._live = live
        self._names: set[tuple[NetworkId, str]] = set()
        self._ports: list[Publication] = []

    def __len__(self) -> int:
        return len(self._names) + len(self._ports)

    def is_name_taken(
        self, network_id: NetworkId, name: str, *, except_for: EndpointId | None = None
    ) -> bool:
        """True if another endpoint of this host has the name in the network, or is just getting it."""
        return (network_id, name) in self._names or any(
            other.endpoint_id != except_for for other in self._live.rows.called(network_id, name)
        )

    @contextmanager
    def name(self, network_id: NetworkId, name: str) -> Iterator[None]:
        """Claim a name during a block. RefusedError when it is taken."""
        if self.is_name_taken(network_id, name):
            raise RefusedError(
                f"the name {name!r} is already used on this host in that network",
                code="name-in-use",
                thing=name,
                hint="use another --name; give both the same --service to make them replicas",
            )
        self._names.add((network_id, name))
        try:
            yield
        finally:
            self._names.discard((network_id, name))

    @contextmanager
    def ports(self, wanted: tuple[Publication, ...], owner: EndpointId) -> Iterator[None]:
        """Claim ports during a block. RefusedError when another endpoint than `owner` has one."""
        for one in wanted:
            for row in self._live.rows.publishing():
                known = next((other for other in row.publish if other.meets(one)), None)
                if known is not None and row.endpoint_id != owner:
                    raise port_in_use(one, f"published by {row.name} ({known.text})")
            if any(other.meets(one) for other in self._ports):
                raise port_in_use(one, "just being published by another endpoint")
        self._ports += wanted
        try:
            yield
        finally:
            for one in wanted:
                self._ports.remove(one)
