"""Nodes that prove nothing are refused where that is decided, and once all hosts have shown proofs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import trio
from fakes.registry import H1, H2, H3, Writer, host
from fakes.virtual import virtual

from netagent.keys.ring_store import RingStore
from netagent.membership.signed_members import CALM_S, LOOK_S, SignedMembers
from netagent.model.ids import HostId
from netagent.registry.state_store import StateStore
from netagent.registry.view import RegistryView
from netagent.state_dir import ClusterKeys
from netgossip.types import MemberState

PLAIN = HostId("memberlist")


class Node:
    """A gossip in which some nodes have shown proofs. Notes what it is told to require."""

    def __init__(self) -> None:
        self.shown = {H2}
        self.alive = {H2}
        self.required: list[bool] = []
        self.membership = self.records = SimpleNamespace(is_signer=lambda node_id: node_id in self.shown)

    def members(self) -> dict[str, Any]:
        return {one: SimpleNamespace(node_id=one, state=MemberState.ALIVE) for one in self.alive}

    def require_proofs(self, *, required: bool, now: float) -> None:
        self.required.append(required)


def controller(node: Node, *, allows_unsigned: bool | None) -> tuple[SignedMembers, list[ClusterKeys]]:
    view = RegistryView(H1)
    for number, owner in ((2, H2), (3, H3)):
        view = view.with_entries(Writer(owner).put(host(f"h{number}")))
    saved: list[ClusterKeys] = []
    keys = ClusterKeys("c" * 32, "lab", "lab.internal", (b"k" * 32,), allows_unsigned=allows_unsigned)
    live = StateStore(view, {}, {})
    return SignedMembers(live, cast("Any", node), RingStore(keys, saved.append)), saved


@virtual
async def test_they_are_refused_from_the_first_message_on_where_that_is_decided() -> None:
    node = Node()
    one, _ = controller(node, allows_unsigned=False)
    one.begin()
    assert node.required == [True]
    await one.run()
    other, _ = controller(node, allows_unsigned=True)
    other.begin()
    await other.run()
    assert node.required == [True], "this cluster allows them"


@virtual
async def test_an_older_cluster_refuses_them_once_all_hosts_have_shown_proofs_also_those_that_are_away() -> (
    None
):
    node = Node()
    one, saved = controller(node, allows_unsigned=None)
    one.begin()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.run)
        await trio.sleep(3 * CALM_S)
        assert not node.required, "H3 is away, and is of the release before"
        node.shown.add(H3)
        await trio.sleep(CALM_S / 2)
        node.alive.add(PLAIN)
        assert one.unsigned() == [PLAIN]
        await trio.sleep(3 * CALM_S)
        assert not node.required, "a plain memberlist is a member"
        node.alive.remove(PLAIN)
        await trio.sleep(CALM_S / 2)
        assert not node.required
        await trio.sleep(CALM_S / 2 + 3 * LOOK_S)
    assert node.required == [True]
    assert [keys.allows_unsigned for keys in saved] == [False]
