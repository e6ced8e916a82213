"""This host's flows, and those of others when a command asks. One task: `run`, which notes whose ports there are."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import trio

from netagent.datapath.flows.counters import CountingTrouble, FlowCounters, FlowReading
from netagent.datapath.flows.layout import Opener, Share
from netagent.flows.departed import DepartedTargets
from netagent.flows.filter import FlowFilter, select
from netagent.flows.flow import Flow, named_flows
from netagent.flows.saved_names import dump_names, restore_names
from netagent.flows.sources import FlowSources
from netagent.flows.wire import (
    FlowPage,
    FlowQuestion,
    FlowWireError,
    encode_page,
    parse_page_untrusted,
    parse_question_untrusted,
)
from netagent.model.ids import HostId, NetworkId
from netagent.periodic_task import PeriodicTask
from netagent.registry.state_store import StateStore
from netgossip.slice_runner import in_slices

_log = logging.getLogger(__name__)

AT_ONCE: Final = 64
"""Bound of hosts that are asked for their flows at the same time; beyond it: others wait; 3 s bound all of them."""
ASK_S: Final = 3.0
MOST_PAGES: Final = 40
"""Bound of pages of flows that are fetched from one host for one answer; beyond it: its further flows are left out,
and the answer says so. A page has some 20 flows."""
FRESH_S: Final = 5.0
"""How old a reading may be that further pages are made from."""

NOTE_S: Final = 2.0
"""How long a container may live without its name being known when it is gone."""
_MAX_NOTES_BYTES: Final = 1 << 23
"""Bound of the file of names that is read; beyond it: the file counts as unreadable. 20,000 names have 4 MB."""
_CLOCK_S: Final = 1.0

Ask = Callable[[HostId, bytes], Awaitable[bytes | None]]


@dataclass(slots=True)
class HostFlows:
    """What one host said."""

    flows: list[Flow] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)
    """Of sources with more flows than their share: how many openings were not counted one by one, by name."""
    trouble: CountingTrouble | None = None
    """Why it does not count all flows; None: it does."""
    is_cut: bool = False
    """It has more flows than fit into the answer."""
    has_answered: bool = True


class FlowReader:
    """For one run of the cluster. `notes`: the file of names for the next agent; it must be gone after a reboot."""

    def __init__(self, live: StateStore, counters: FlowCounters, ask: Ask, notes: Path) -> None:
        self._live = live
        self._counters = counters
        self._ask = ask
        self._sources = FlowSources()
        self._departed = DepartedTargets()
        self._notes = notes
        self._restore()
        self._noting = trio.Lock()
        """Each view is compared with the one before it, in slices."""
        self._reading = trio.Lock()
        self._last = HostFlows()
        self._last_at = -math.inf
        """When the last reading began."""
        self._epoch_s = 0.0

    async def run(self) -> None:
        """Note whose ports there are and which containers go, until cancelled. Leaves their names for the next
        agent."""
        task = PeriodicTask(NOTE_S)
        try:
            while True:
                await self._note()
                if self._departed.is_full:
                    flows = await self._named(await self._counters.read())
                    self._departed.keep({(flow.source.network_id, flow.address) for flow in flows})
                await task.wait()
        finally:
            self._save()

    async def read(self) -> HostFlows:
        """Return the flows of this host's containers of the last hour, sorted by id."""
        reading = await self._counters.read()
        await self._note()
        flows = await self._named(reading)
        flows.sort(key=lambda flow: flow.flow_id)
        return HostFlows(flows, self._left_out(reading.shares), self.trouble())

    def trouble(self) -> CountingTrouble | None:
        """Return why this host does not count all flows; None: it does, as far as it has containers."""
        if self._counters.trouble is not None:
            return self._counters.trouble
        ports, found = self._counters.ports, self._counters.port_troubles
        if not found:
            return None
        index, first = min(found.items())
        if ports.keys() <= found.keys() and len({*found.values()}) == 1:
            return first
        where = self._place_of(index)
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        return CountingTrouble(f"{first.cause} (of {where}{more})", first.cure)

    async def answer(self, payload: bytes) -> bytes:
        """Answer another host's question about this host's flows. Raises FlowWireError."""
        asked = parse_question_untrusted(payload)
        # A reading that began after the question came is new enough, so questions that wait share one.
        needed = trio.current_time() - (FRESH_S if asked.after else 0.0)
        async with self._reading:
            if self._last_at < needed:
                self._last_at = trio.current_time()
                self._last = await self.read()
            mine = self._last
        network_id = NetworkId(asked.network_id) if asked.network_id else None
        wanted = FlowFilter(network_id, asked.is_refused, asked.source, asked.target)
        behind = [flow for flow in mine.flows if flow.flow_id > asked.after]
        found = await in_slices(select(self._live.view, behind, wanted))
        return encode_page([one.flow for one in found], mine.trouble, {} if asked.after else mine.left_out)

    async def ask_others(self, hosts: Collection[HostId], asked: FlowQuestion) -> Mapping[HostId, HostFlows]:
        """Return what these hosts say, as far as they say it within ASK_S."""
        found = {host_id: HostFlows(has_answered=False) for host_id in hosts}
        limiter = trio.CapacityLimiter(AT_ONCE)
        with trio.move_on_after(ASK_S):
            async with trio.open_nursery() as nursery:
                for host_id in hosts:
                    nursery.start_soon(self._ask_one, host_id, asked, found[host_id], limiter)
        return found

    async def _ask_one(
        self, host_id: HostId, asked: FlowQuestion, into: HostFlows, limiter: trio.CapacityLimiter
    ) -> None:
        after = ""
        async with limiter:
            for _ in range(MOST_PAGES):
                page = await self._ask_page(host_id, dataclasses.replace(asked, after=after))
                if page is None:
                    return
                into.has_answered, into.is_cut = True, not page.is_last
                into.trouble = page.trouble
                into.left_out.update(page.left_out)
                into.flows += (flow for flow in page.flows if self._is_of(flow, host_id))
                if page.is_last or not page.flows:
                    return
                after = page.flows[-1].flow_id

    def _is_of(self, flow: Flow, host_id: HostId) -> bool:
        """True unless the host speaks for another one's container: links are suggested by what it says."""
        endpoint = self._live.view.endpoints.get(flow.source.endpoint_id)
        return endpoint is None or endpoint.owner == host_id

    async def _ask_page(self, host_id: HostId, asked: FlowQuestion) -> FlowPage | None:
        answer = await self._ask(host_id, asked.encode())
        if answer is None:
            return None
        try:
            return parse_page_untrusted(answer, host_id)
        except FlowWireError:
            return None

    def _epoch(self) -> float:
        """Return when the monotonic clock began. Kept while the clocks agree, so that the same moment is shown twice
        as the same."""
        epoch_s = time.time() - time.monotonic()
        if abs(epoch_s - self._epoch_s) > _CLOCK_S:
            self._epoch_s = epoch_s
        return self._epoch_s

    def _restore(self) -> None:
        try:
            with self._notes.open(encoding="utf-8") as file:
                text = file.read(_MAX_NOTES_BYTES)
        except (OSError, ValueError):
            return
        restore_names(text, self._live.view.local, self._sources, self._departed)

    def _save(self) -> None:
        draft = self._notes.with_suffix(".new")
        try:
            draft.write_text(dump_names(self._sources, self._departed), "utf-8")
            draft.replace(self._notes)
        except OSError as error:
            _log.warning(
                "flows: the next agent will not know the names of containers that are gone: %s", error
            )

    async def _note(self) -> None:
        counters = self._counters
        self._sources.note(self._live.view, self._live.rows, counters.ports, counters.bridges)
        async with self._noting:
            await in_slices(self._departed.note(self._live.view))

    async def _named(self, reading: FlowReading) -> list[Flow]:
        view = self._live.view
        return await in_slices(named_flows(reading, self._sources, self._departed, view, self._epoch()))

    def _place_of(self, index: int) -> str:
        """Return what a device is of, in words."""
        view = self._live.view
        if index in self._counters.ports:
            return self._sources.owner(view, index).name
        network_id = self._sources.owner(view, index | Opener.HOST).network_id
        network = None if network_id is None else view.networks.get(network_id)
        return "a network" if network is None else f"network {network.unique_name}"

    def _left_out(self, shares: Mapping[int, Share]) -> dict[str, int]:
        view = self._live.view
        found: dict[str, int] = {}
        for place, share in shares.items():
            if share.left_out:
                name = self._sources.owner(view, place).name
                found[name] = found.get(name, 0) + share.left_out
        return found
