"""What the resolver process knows for feeds, without I/O: a feed is whole or there is none."""

from __future__ import annotations

import random

import pytest
import trio
import trio.testing
from fakes.feed_tables import an_endpoint

from netagent.feeds.packed import pack_endpoint
from netagent.feeds.services import SYNCED
from netagent.model.ids import NetworkId
from netagent.model.sandbox import Sandbox, SandboxId
from netagent.resolver.feed_server import WATCHED, FeedServer, _Body
from netagent.resolver.feed_source import IncompleteError
from netagent.resolver.name_table import Change, FeedRow, Key, NetworkRow, Row, RowKind, changes_between
from netagent.resolver.session import ServedTable
from netgossip.slices import at_once

A, B = NetworkId("a" * 32), NetworkId("b" * 32)
S = SandboxId("s")
SANDBOX: tuple[Key, Row] = (RowKind.SANDBOX, S), Sandbox(sandbox_id=S, networks=(A,))
NETWORK: tuple[Key, Row] = (RowKind.NETWORK, A), NetworkRow("app", (), has_feeds=True)


def fed(number: int) -> tuple[Key, Row]:
    one = an_endpoint(number)
    return (RowKind.FEED, one.endpoint_id), FeedRow(A, pack_endpoint(one))


def committed(*changes: Change) -> ServedTable:
    """Return a table that these changes, which are complete, have made."""
    served = ServedTable()
    served.apply(changes)
    served.feeds.commit()
    return served


def test_a_sandbox_without_a_row_has_no_feed() -> None:
    feeds = committed(NETWORK, fed(1)).feeds
    assert feeds.networks_of(S) == ()
    with pytest.raises(IncompleteError):
        at_once(feeds.table((), "http://x"))


def test_feeds_of_networks_that_the_last_container_has_left_are_no_longer_wanted() -> None:
    served = committed(NETWORK, SANDBOX)
    other = SandboxId("t")
    served.apply([((RowKind.SANDBOX, other), Sandbox(sandbox_id=other, networks=(A, B)))])
    assert served.feeds.want((A, B))
    served.apply([((RowKind.SANDBOX, other), Sandbox(sandbox_id=other, networks=(A,)))])
    assert served.feeds.wanted == {A}
    served.apply([((RowKind.SANDBOX, S), None)])
    assert served.feeds.wanted == {A}
    served.apply([((RowKind.SANDBOX, other), None)])
    assert served.feeds.wanted == frozenset()


def test_a_network_that_has_gone_is_answered_by_no_body_from_before() -> None:
    async def main() -> None:
        served = committed(NETWORK, SANDBOX, fed(1))
        server = FeedServer(served.feeds, away_s=lambda: None, note_wanted=lambda: None)
        assert b"web1" in b"".join((await server._body("services", (A,), S)).parts)
        served.apply([((RowKind.NETWORK, A), None)])
        for networks in ((A,), ()):
            with pytest.raises(IncompleteError):
                await server._body("services", networks, S)

    trio.run(main)


@pytest.mark.parametrize("seed", range(20))
def test_a_network_that_goes_is_never_answered_with_a_part_of_its_endpoints(seed: int) -> None:
    """The order in which rows go is that of a set, which is another one in each process."""
    old = dict([NETWORK, SANDBOX, *map(fed, range(1, 6))])
    served = committed(*old.items())
    keys = random.Random(seed).sample(list(old), len(old))
    for change in changes_between(old, dict([SANDBOX]), keys):
        served.apply([change])
        with pytest.raises(IncompleteError):
            at_once(served.feeds.table(served.feeds.networks_of(S), "http://x"))


def serving() -> tuple[ServedTable, FeedServer, list[str]]:
    """Return a server that takes a second to make a body, and what it has made."""
    served = committed(NETWORK, SANDBOX, fed(1))
    server = FeedServer(served.feeds, away_s=lambda: None, note_wanted=lambda: None)
    made: list[str] = []

    async def make(feed: str, networks: tuple[NetworkId, ...]) -> _Body:
        version = served.feeds.version_of(networks)
        await trio.sleep(1)
        made.append(feed)
        return _Body((), version, trio.current_time())

    server._make = make  # type: ignore[method-assign]
    return served, server, made


def test_a_container_waits_for_one_body_of_another_and_not_at_all_for_one_that_is_made() -> None:
    async def main() -> None:
        _, server, made = serving()
        await server._body("prometheus", (A,), SandboxId("t"))
        async with trio.open_nursery() as nursery:
            for feed in ("services", "traefik", "caddy", "envoy"):
                nursery.start_soon(server._body, feed, (A,), S)
            await trio.sleep(0.1)
            began = trio.current_time()
            await server._body("prometheus", (A,), SandboxId("t"))
            assert trio.current_time() == began
            await server._body("envoy-endpoints", (A,), SandboxId("t"))
            assert len(made) == 3
            assert made[-1] == "envoy-endpoints"
        assert len(made) == 6

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_what_is_cancelled_while_it_is_made_loses_nothing_and_costs_its_pause() -> None:
    async def main() -> None:
        served, server, made = serving()
        first = await server._body("services", (A,), S)
        await trio.sleep(10)
        served.apply([fed(2)])
        with trio.move_on_after(0.5):
            await server._body("services", (A,), S)
        assert server._bodies["services", (A,)] is first
        began = trio.current_time()
        await server._body("services", (A,), S)
        assert trio.current_time() - began == pytest.approx(1.5)
        assert made == ["services"] * 2

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_first_lines_and_differences_are_made_once_for_all_who_watch() -> None:
    async def main() -> None:
        served = committed(NETWORK, SANDBOX, fed(1))
        server = FeedServer(served.feeds, away_s=lambda: None, note_wanted=lambda: None)
        bodies = []
        for number in (2, 3, 4):
            bodies.append(await server._body(WATCHED, (A,), S))
            await trio.sleep(5)
            served.apply([fed(number)])
        one, two, three = bodies
        assert one.parts[0].startswith(b'{"event":"added"')
        assert one.parts[-1].endswith(SYNCED.encode())
        assert await server._news(one, two) is two.news
        assert b"".join(two.news).startswith(b'{"event":"changed"')
        assert b"".join(await server._news(one, three)) == b"".join(three.news), "it has missed one"

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_a_container_begins_one_watch_each_second() -> None:
    async def main() -> None:
        _, server, _ = serving()
        began = trio.current_time()
        for number in range(4):
            await server._wait_turn(S)
            assert trio.current_time() - began == pytest.approx(number)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
