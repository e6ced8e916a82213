"""What the resolver process knows for feeds, without I/O: a feed is whole or there is none."""

from __future__ import annotations

import random

import pytest
import trio
from fakes.feed_tables import an_endpoint

from netagent.feeds.packed import pack_endpoint
from netagent.model.ids import NetworkId
from netagent.model.sandbox import Sandbox, SandboxId
from netagent.resolver.feed_server import FeedServer
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
        assert b"web1" in b"".join((await server._body("services", (A,))).parts)
        served.apply([((RowKind.NETWORK, A), None)])
        for networks in ((A,), ()):
            with pytest.raises(IncompleteError):
                await server._body("services", networks)

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
