"""Answers other agents' requests, each by the part that knows the answer (kinds in netagent.rpc.messages)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import trio

from netagent.model.ids import EndpointId, HostId
from netagent.probes.liveness import LivenessReport
from netagent.registry.state_store import StateStore
from netagent.registry.view import RegistryView
from netagent.rpc import encryption, messages, paths

FOLLOW_S = 2.0
"""How long a question about names is kept open. The resolver follows a record within milliseconds; a kernel that
hangs holds names back for 2 s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RpcHandlers:
    """Answers one request at a time, any number concurrently."""

    live: StateStore
    wait_followed: Callable[[int], Awaitable[None]]
    """Waits until kernel and names are at a revision, or a later one."""
    space: Callable[[HostId, bytes], Awaitable[bytes]]
    testify: Callable[[tuple[HostId, ...]], Awaitable[tuple[LivenessReport, ...]]]
    flows: Callable[[bytes], Awaitable[bytes]]
    find_drops: Callable[[messages.Drops], Awaitable[tuple[str, ...]]]
    events: Callable[[bytes], Awaitable[bytes]]
    known_paths: Callable[[tuple[HostId, ...]], Sequence[paths.KnownPath]]
    ability: Callable[[], Awaitable[encryption.Ability]]
    """Whether this host can encrypt."""

    async def answer(self, peer: HostId, payload: bytes) -> bytes:
        """Return the answer's bytes. Raises an InputError for bytes that are not a request."""
        match messages.kind_of(payload):
            case messages.WITHDRAWN:
                return await self._withdrawn(messages.parse_withdrawn_untrusted(payload, peer))
            case messages.SILENT:
                words = await self.testify(messages.parse_silent_untrusted(payload))
                return messages.encode_testimony(words)
            case messages.DROPS:
                found = await self.find_drops(messages.parse_drops_untrusted(payload))
                return messages.encode_sentences(found)
            case messages.EVENTS:
                return await self.events(payload)
            case messages.PATHS:
                return paths.encode_answer(self.known_paths(paths.parse_question_untrusted(payload)))
            case messages.ENCRYPT:
                return encryption.encode_answer(await self.ability())
            case messages.FLOWS:
                return await self.flows(payload)
            case _:
                return await self.space(peer, payload)

    async def _withdrawn(self, asked: messages.IsWithdrawn) -> bytes:
        """True as soon as this host's resolver no longer has the thing; False when that takes too long."""
        with trio.move_on_after(FOLLOW_S) as scope:
            revision = self.live.revision
            while not is_withdrawn(self.live.view, asked):
                revision = await self.live.wait_newer(revision)
            await self.wait_followed(revision)
        return messages.encode_answer(messages.WITHDRAWN, answer=not scope.cancelled_caught)


def is_withdrawn(view: RegistryView, asked: messages.IsWithdrawn) -> bool:
    """True when no name of this view leads to the thing."""
    if asked.endpoint_id is None:
        host_id = HostId(asked.host_id)
        return view.is_host_hidden(host_id) or view.drain_of_host(host_id) is not None
    endpoint = view.endpoints.get(EndpointId(asked.endpoint_id))
    if endpoint is None or endpoint.owner != asked.host_id:
        return True
    return not (view.is_visible(endpoint) or view.is_kept(endpoint))
