"""Gives the tunnel's device its peers, and each the endpoint that netagent.tunnel.endpoint_choice chooses."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import trio

from netagent.errors import NetagentError
from netagent.log import Limited
from netagent.tunnel.device import TunnelDevice
from netagent.tunnel.endpoint_choice import Attempt, EndpointChoice
from netagent.tunnel.peer import PeerEndpoint, TunnelPeer

LOOK_S: Final = 2.0
"""How often the device is asked what came of each peer, at least. 180 peers are some milliseconds of work."""
SHORTEST_LOOK_S: Final = 0.2

_limited = Limited(logging.getLogger("netagent.encryption"))


class TunnelEndpoints:
    """One task: `run`."""

    def __init__(self, device: TunnelDevice) -> None:
        self._device = device
        self._choice = EndpointChoice()
        self._peers: Mapping[bytes, TunnelPeer] = {}
        self._candidates: Mapping[bytes, tuple[PeerEndpoint, ...]] = {}
        self._chosen: dict[bytes, PeerEndpoint] = {}
        """The endpoint that was given last. Not always where the peer is: the device follows one that roams."""
        self._lock = trio.Lock()
        """Two calls of the device must not overlap: the later one's peers have to stand in the end."""
        self._changed = trio.Event()

    async def set_peers(
        self, peers: Mapping[bytes, TunnelPeer], candidates: Mapping[bytes, tuple[PeerEndpoint, ...]]
    ) -> None:
        """Have exactly these peers; `candidates`: where each may be, best first. FailedError."""
        async with self._lock:
            self._peers, self._candidates = peers, candidates
            self._chosen = {
                key: self._chosen.get(key, found[0]) for key, found in candidates.items() if found
            }
            await self._give({})
        self._changed.set()

    async def run(self) -> None:
        """Look after silent peers until cancelled."""
        while True:
            self._changed = trio.Event()
            try:
                await self._look()
            except NetagentError as error:  # the device has lost its process, and is about to get another
                _limited.warning("look", f"the encrypted tunnel: {error}")
            wait_s = min(self._choice.next_look - trio.current_time(), LOOK_S)
            with trio.move_on_after(max(wait_s, SHORTEST_LOOK_S) if self._peers else float("inf")):
                await self._changed.wait()

    async def _look(self) -> None:
        async with self._lock:
            if not self._peers:
                return
            states = await self._device.states()
            attempts = self._choice.look(self._candidates, states, trio.current_time())
            if attempts:
                self._chosen |= {key: attempt.endpoint for key, attempt in attempts.items()}
                await self._give(attempts)

    async def _give(self, attempts: Mapping[bytes, Attempt]) -> None:
        peers = {key: replace(peer, endpoint=self._chosen.get(key)) for key, peer in self._peers.items()}
        await self._device.set_peers(
            peers,
            repoint=[key for key, attempt in attempts.items() if not attempt.is_new],
            renew=[key for key, attempt in attempts.items() if attempt.is_new],
        )
