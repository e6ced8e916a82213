"""A reader that waits for changes gets them, however many there are in between."""

from __future__ import annotations

import trio
from fakes.registry import H1, Writer, network
from fakes.rows import local_row
from fakes.virtual import virtual

from netagent.journal.rows import LocalEndpointRow
from netagent.model.ids import EndpointId
from netagent.registry.state_store import StateStore
from netagent.registry.view import RegistryView


def row(number: int) -> LocalEndpointRow:
    return local_row(f"{number:032x}", "a" * 32, name=f"w{number}")


@virtual
async def test_changes_wake_all_readers_and_nothing_is_missed() -> None:
    live, seen = StateStore(RegistryView(H1), {}), {}

    async def follow(name: str, pause_s: int) -> None:
        revision = 0
        while True:
            revision = await live.wait_newer(revision)
            seen[name] = (revision, len(live.rows))
            await trio.sleep(pause_s)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow, "quick", 0)
        nursery.start_soon(follow, "slow", 10)
        for number in range(20):
            live.set_row(row(number))
            await trio.sleep(0.1)
        await trio.sleep(30)
        nursery.cancel_scope.cancel()
    assert seen == {"quick": (21, 20), "slow": (21, 20)}


def test_only_changes_count_and_readers_keep_what_they_have() -> None:
    live = StateStore(RegistryView(H1), {})
    live.update_view(lambda view: view)
    live.drop_row(EndpointId("f" * 32))
    assert live.revision == 1
    before = live.rows
    live.set_row(row(1))
    live.set_row(row(2))
    live.set_row(row(1))
    assert [one.name for one in live.rows.values()] == ["w1", "w2"], "the order of attaching stays"
    assert before == {}
    live.update_view(lambda view: view.with_entries(Writer(H1).put(network())))
    assert live.now.revision == live.revision == 5
