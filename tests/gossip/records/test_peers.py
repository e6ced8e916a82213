"""Who takes part, whatever changed since it was asked last."""

from __future__ import annotations

import random

from netgossip.records.peers import Peers
from netgossip.types import CLUSTER_SCOPE

OWN = "aa" * 16
NET = bytes(range(16))


def test_live_peers_are_those_that_are_live_and_take_part() -> None:
    rng = random.Random(1)
    peers = [f"{number:032x}" for number in range(8)]
    table, members = Peers(OWN), frozenset[str]()
    live: dict[str, bool] = {}
    for _ in range(2000):
        peer = rng.choice(peers)
        match rng.randrange(6):
            case 0:
                assert table.forget_peer(peer) is (live.pop(peer, None) is not None)
            case 1:
                members = frozenset(rng.sample([*peers, OWN], 4))
                table.set_members(NET, members)
            case 2:
                table.drop_scope(NET)
                members = frozenset()
            case _:
                live[peer] = rng.random() < 0.5
                table.set_peer(peer, live=live[peer], suspect=False)
        living = {one for one, is_live in live.items() if is_live}
        assert table.live_in(CLUSTER_SCOPE) == tuple(sorted(living))
        assert table.live_in(NET) == tuple(sorted(living & members))
