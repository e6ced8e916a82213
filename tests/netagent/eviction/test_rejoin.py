"""A host learns that the cluster has evicted it."""

from __future__ import annotations

import trio
import trio.testing
from fakes.registry import H1, H2, Writer
from fakes.virtual import virtual

from netagent.eviction.rejoin import wait_evicted
from netagent.model.records import ForgetRecord
from netagent.registry.state_store import StateStore
from netagent.registry.view import RegistryView


@virtual
async def test_it_waits_until_the_host_is_evicted_or_its_run_has_ended() -> None:
    for is_end in (False, True):
        live, ended = StateStore(RegistryView(H1), {}), trio.Event()
        found: list[bool] = []

        async def wait() -> None:
            found.append(await wait_evicted(live, ended))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            live.update_view(lambda view: view)
            await trio.testing.wait_all_tasks_blocked()
            assert found == []
            if is_end:
                ended.set()
            else:
                live.update_view(
                    lambda view: view.with_entries(Writer(H2).put(ForgetRecord(H1, settled=True)))
                )
        assert found == [not is_end]
