"""Removal of an endpoint: name first, then resolver, interface and address.

Each step may be repeated. What a failure leaves half removed is noted, and the garbage collector removes the rest.
"""

from __future__ import annotations

import dataclasses
import logging

from netagent.endpoints.context import EndpointContext
from netagent.endpoints.records import record_of
from netagent.endpoints.targets import is_at_its_path
from netagent.errors import NetagentError
from netagent.events.channel import event
from netagent.events.kinds import EventKind
from netagent.journal import statements
from netagent.journal.rows import Bound, LocalEndpointRow, Published
from netagent.model.ids import EndpointId

logger = logging.getLogger("netagent.endpoints.removal")


class Removal:
    """Takes endpoints down."""

    def __init__(self, context: EndpointContext) -> None:
        self._context = context
        self._live = context.live
        self.half_done: set[EndpointId] = set()
        """Endpoints whose removal failed half way."""

    async def remove(self, row: LocalEndpointRow, why: str = "") -> None:
        """Take an endpoint down, whether or not its namespace still exists. May be called again after a failure.
        `why`: for the log, unless a request asked for it."""
        context = self._context
        async with context.held(row) as now:
            if now is None:
                return
            row = await self.take_down(now)
            context.resolv_confs.refresh(row, gone=True)
            await self._context.allocator.release(row)
            self._live.drop_row(row.endpoint_id)
            self.half_done.discard(row.endpoint_id)
            context.records.nameless.discard(row.endpoint_id)
            if row.links:
                await context.records.refresh_mates(row)
            if context.others_in_sandbox(row):
                # Until then the sandbox may still resolve names of the network that it left.
                await context.settle()
        gone = event(EventKind.DETACH, row.name)
        because = f": {why}" if why else ""
        logger.info(
            "detached %s (%s) from %s%s", row.name, row.target, context.called(row), because, extra=gone
        )

    async def take_down(self, row: LocalEndpointRow) -> LocalEndpointRow:
        """Withdraw the name, then remove the resolver and the interface; it counts as half removed until the caller
        says otherwise.

        The write that withdraws the name also takes back that the endpoint is published, so that a restart does not
        complete it again."""
        if isinstance(row.stage, Published):
            row = dataclasses.replace(row, stage=Bound(row.stage.netns, row.stage.ifname))
        # Not `save`, which is refused on a full disk: detaching frees space.
        await self._context.publisher.change(withdraw=[record_of(row)], also=statements.save_endpoint(row))
        self._live.set_row(row)
        self.half_done.add(row.endpoint_id)
        await self._context.settle()
        if row.netns is not None and not self._context.others_in_sandbox(row):
            await self._context.resolvers.remove_sandbox(row.netns.sandbox_id)
        await self._context.attacher.unbind(row.endpoint_id)
        await self._move_default_route(row)
        return row

    async def _move_default_route(self, row: LocalEndpointRow) -> None:
        """Give the default route to the sandbox's next endpoint."""
        for mate in self._live.rows.mates_of(row):
            if not mate.is_published or not is_at_its_path(mate):
                continue
            try:
                endpoint = self._context.in_datapath(mate, self._context.network(mate.network_id))
                if endpoint.gateways:
                    await self._context.attacher.bind(endpoint)
            except NetagentError as error:  # netagent.endpoints.interfaces repairs it later
                logger.warning(
                    "cannot move the default route of %s to %s: %s", mate.target, mate.ifname, error
                )
