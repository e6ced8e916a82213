"""Finds what nobody told us: containers that vanished, interfaces that were deleted, networks that were removed.

An endpoint's sandbox is known by the identity of its namespace. While the path it was attached by still leads there,
or any process lives in it, the endpoint stays; otherwise it is withdrawn, never by guess.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import trio

from netagent.datapath import netns
from netagent.datapath.attach import Attacher
from netagent.errors import NetagentError
from netagent.model.ids import EndpointId
from netagent.projection.intent import local_endpoint
from netagent.registry.row import LocalEndpointRow, Stage
from netagent.usecases.endpoint_rules import record_of, sandbox_of
from netagent.usecases.endpoints import EndpointParts, Endpoints, netns_is

INTERVAL_S = 1.0
"""A namespace is looked at by one stat(2): 200 of them cost less than a millisecond."""

logger = logging.getLogger("netagent.usecases.janitor")


@dataclass(frozen=True, slots=True)
class Janitor:
    """`recover` once at the start, then `run`."""

    parts: EndpointParts
    endpoints: Endpoints

    async def recover(self) -> None:
        """Bring every endpoint of the journal back to a whole state: finished, or gone without a trace."""
        wanted = set(self.parts.live.rows)
        for endpoint_id in await self.parts.attacher.list_endpoint_devices():
            if endpoint_id not in wanted:
                logger.info("removing the interface of %s, which nobody owns", endpoint_id[:8])
                await self.parts.attacher.unbind(endpoint_id)
        for row in list(self.parts.live.rows.values()):
            if (
                row.stage is Stage.RESERVED
                or row.boot_id != self.parts.boot_id
                or not await self._still_there(row)
            ):
                logger.info("%s (%s) did not survive: withdrawing it", row.name, row.target)
                await self._attempt(row)
            else:
                await self._resume(row)
        await self.parts.resolvers.keep_only({sandbox_of(row) for row in self.parts.live.rows.values()})

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await trio.sleep(INTERVAL_S)
            removed = [row for row in self._rows() if self.parts.live.view.is_removed(row.network_id)]
            for row in removed:
                logger.info("network %s was removed: detaching %s", row.network_id[:8], row.name)
                await self._attempt(row)
            for row in self._rows():
                if not await self._still_there(row):
                    logger.info("the namespace of %s (%s) is gone: withdrawing it", row.name, row.target)
                    await self._attempt(row)

    def _rows(self) -> list[LocalEndpointRow]:
        return [row for row in self.parts.live.rows.values() if row.stage is Stage.PUBLISHED]

    async def _attempt(self, row: LocalEndpointRow) -> None:
        """Remove an endpoint; what fails now is tried again on the next round."""
        try:
            await self.endpoints.remove(row)
        except NetagentError as error:
            logger.warning("cannot remove %s yet: %s", row.name, error)

    async def _still_there(self, row: LocalEndpointRow) -> bool:
        if netns_is(row):
            return True
        # The entry process may have ended while others live on in the namespace.
        path = await trio.to_thread.run_sync(_path_of_namespace, (row.netns_dev, row.netns_inode))
        if path is None:
            return False
        moved = replace(row, netns_path=path)
        await self.parts.journal.save_endpoint(moved)
        self.parts.live.set_row(moved)
        return True

    async def _resume(self, row: LocalEndpointRow) -> None:
        parts, network = self.parts, self.parts.live.view.networks.get(row.network_id)
        if network is None:
            # The network's record is not here yet, or it was removed: `run` sees to it.
            return
        try:
            with netns.opened_netns(row.netns_path, (row.netns_dev, row.netns_inode)) as fd:
                await parts.resolvers.ensure_listening(sandbox_of(row), fd)
        except (NetagentError, OSError) as error:
            logger.warning("cannot resume %s: %s", row.name, error)
        if parts.live.view.endpoints.get(row.endpoint_id) is None:
            await parts.publisher.put(record_of(row))
        if row.stage is not Stage.PUBLISHED:
            finished = replace(row, stage=Stage.PUBLISHED)
            await parts.journal.save_endpoint(finished)
            parts.live.set_row(finished)


async def rebind(parts: EndpointParts, attacher: Attacher, endpoint_id: EndpointId) -> None:
    """Make an interface anew that was deleted although its namespace is there."""
    row = parts.live.rows.get(endpoint_id)
    network = parts.live.view.networks.get(row.network_id) if row else None
    if row is None or network is None or row.stage is not Stage.PUBLISHED or not netns_is(row):
        return
    try:
        await attacher.bind(
            local_endpoint(row, network), vni=network.record.vni, mtu_bytes=network.record.mtu_bytes
        )
        logger.warning("the interface of %s had been deleted: made anew", row.name)
    except NetagentError as error:
        logger.warning("cannot make the interface of %s anew: %s", row.name, error)


def _path_of_namespace(identity: tuple[int, int]) -> str | None:
    """`/proc/PID/ns/net` of some process in the namespace; None when there is none."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            path = folder / "ns" / "net"
            try:
                status = path.stat()
            except OSError:
                continue
            if (status.st_dev, status.st_ino) == identity:
                return str(path)
    return None
