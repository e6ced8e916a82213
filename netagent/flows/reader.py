"""Reads this host's flows when a command asks, and notes whose ports they are. One task: `run`."""

from __future__ import annotations

from collections.abc import Mapping

from netagent.datapath.flows.counters import LOOK_S, FlowCounters
from netagent.datapath.flows.layout import Share
from netagent.flows.flow import Flow, named_flows
from netagent.flows.sources import FlowSources
from netagent.periodic_task import PeriodicTask
from netagent.registry.state_store import StateStore
from netgossip.slice_runner import in_slices


class FlowReader:
    """For one run of the cluster."""

    def __init__(self, live: StateStore, counters: FlowCounters) -> None:
        self._live = live
        self._counters = counters
        self._sources = FlowSources()

    @property
    def trouble(self) -> str:
        """Why flows are not counted; empty when they are."""
        return self._counters.trouble

    async def run(self) -> None:
        """Note whose ports there are, until cancelled."""
        task = PeriodicTask(LOOK_S)
        while True:
            self._sources.note(self._live.view, self._counters.ports)
            await task.wait()

    async def read(self) -> tuple[list[Flow], Mapping[str, int]]:
        """Return the flows of this host's containers of the last hour, and of containers with more flows than their
        share how many openings were left out, by name."""
        reading = await self._counters.read()
        view = self._live.view
        self._sources.note(view, self._counters.ports)
        flows = await in_slices(named_flows(reading, self._sources, view))
        return flows, self._left_out(reading.shares)

    def _left_out(self, shares: Mapping[int, Share]) -> dict[str, int]:
        view = self._live.view
        found = {self._sources.owner(view, index).name: share.left_out for index, share in shares.items()}
        return {name: number for name, number in found.items() if number}
