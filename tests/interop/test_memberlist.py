"""Our membership and HashiCorp's memberlist in one cluster, on loopback: each must see what the other sees."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from go_program import COMPILE_S
from interop.our_node import OurNode

from netgossip.join.identity import Identity
from netgossip.types import Address, MemberChanged, MemberState, UnknownSourceHeard

pytestmark = [pytest.mark.interop, pytest.mark.timeout(COMPILE_S + 300)]

KEY = b"0123456789abcdef"
LABEL = b"blue"
DETECTION_BOUND_S = 60.0
"""A few seconds to suspect, then 11 to refute with one host that agrees, 24 with none; and a slow machine."""


def address_of(number: int) -> Address:
    """127/8 is all ours; the process id keeps two runs apart."""
    return f"127.{64 + os.getpid() % 64}.{os.getpid() // 64 % 256}.{number}", 7956


def id_of(number: int) -> str:
    return f"{number:032x}"


class GoNode:
    """The Go program, what it has printed, and its standard input."""

    def __init__(self, name: str, process: trio.Process) -> None:
        self.name = name
        self.process = process
        self.events: list[dict[str, Any]] = []

    def saw(self, event: str, **fields: object) -> bool:
        return any(e["event"] == event and fields.items() <= e.items() for e in self.events)

    def saw_meta(self, name: str, part: str) -> bool:
        """Our meta carries the record port around what the application says."""
        return any(part in e.get("meta", "") for e in self.events if e.get("node") == name)

    async def tell(self, command: str) -> None:
        assert self.process.stdin is not None
        await self.process.stdin.send_all(command.encode() + b"\n")

    async def read(self) -> None:
        assert self.process.stdout is not None
        buffer = b""
        async for data in self.process.stdout:
            *lines, buffer = (buffer + data).split(b"\n")
            self.events += [json.loads(line) for line in lines]


class Cluster:
    """Starts nodes of both kinds, and ends them all."""

    def __init__(self, nursery: trio.Nursery, binary: Path, logs: Path) -> None:
        self._nursery = nursery
        self._binary = binary
        self._logs = logs
        self.go_nodes: list[GoNode] = []

    async def go(
        self, number: int, *, join: int | None = None, key: bytes = KEY, label: bytes = LABEL
    ) -> GoNode:
        name = f"go{number}"
        host, port = address_of(number)
        arguments = [
            f"-name={name}",
            f"-bind={host}",
            f"-port={port}",
            f"-label={label.decode()}",
            f"-key={key.hex()}",
        ]
        if join is not None:
            arguments.append("-join={}:{}".format(*address_of(join)))
        with (self._logs / f"{name}.log").open("wb") as log:
            process = await self._nursery.start(
                partial(
                    trio.run_process,
                    [str(self._binary), *arguments],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    check=False,
                )
            )
        node = GoNode(name, process)
        self.go_nodes.append(node)
        self._nursery.start_soon(node.read)
        await wait_until(lambda: node.saw("started"), 10)
        return node

    def ours(
        self,
        number: int,
        *,
        seeds: tuple[int, ...] = (),
        meta: bytes = b"",
        identity: Identity | None = None,
    ) -> OurNode:
        node = OurNode(
            id_of(number) if identity is None else identity.node_id,
            address_of(number),
            key=KEY,
            label=LABEL,
            seeds=tuple(map(address_of, seeds)),
            meta=meta,
            identity=identity,
        )
        self._nursery.start_soon(node.run)
        return node


async def wait_until(condition: Callable[[], bool], bound_s: float) -> None:
    with trio.fail_after(bound_s):
        while not condition():
            await trio.sleep(0.02)


@asynccontextmanager
async def cluster_of(binary: Path, logs: Path) -> AsyncIterator[Cluster]:
    async with trio.open_nursery() as nursery:
        cluster = Cluster(nursery, binary, logs)
        try:
            yield cluster
        finally:
            for node in cluster.go_nodes:
                node.process.kill()
            nursery.cancel_scope.cancel()


def run(scenario: Callable[[Cluster], Awaitable[None]], binary: Path, logs: Path) -> None:
    async def main() -> None:
        async with cluster_of(binary, logs) as cluster:
            await scenario(cluster)

    trio.run(main)


def test_we_join_and_leave(memberlist_binary: Path, tmp_path: Path) -> None:
    async def scenario(cluster: Cluster) -> None:
        go = await cluster.go(1)
        ours = cluster.ours(2, seeds=(1,), meta=b"from python")
        await wait_until(lambda: go.saw_meta(id_of(2), "from python"), 5)
        await wait_until(lambda: ours.state_of("go1") is MemberState.ALIVE, 5)
        member = ours.member("go1")
        assert member is not None
        assert (member.address, member.meta) == (address_of(1), b"from go")

        ours.node.set_meta(b"changed", trio.current_time())
        ours.driver.flush_nowait()
        await wait_until(lambda: go.saw_meta(id_of(2), "changed"), 5)

        await wait_until(lambda: ours.node.membership.rtt_s("go1") is not None, 5)
        ours.node.membership.leave(trio.current_time())
        ours.driver.flush_nowait()
        await wait_until(lambda: ours.node.membership.has_left(trio.current_time()), 4)
        await wait_until(lambda: go.saw("leave", node=id_of(2)), 5)
        # The Go node's report does not say whether it holds us for left or for dead. A newcomer that asks it does.
        newcomer = cluster.ours(3, seeds=(1,))
        await wait_until(lambda: newcomer.state_of(id_of(2)) is MemberState.LEFT, 5)
        refused = {k: v for k, v in ours.node.statistics().items() if v and k.startswith("gossip_refused")}
        assert refused == {}

    run(scenario, memberlist_binary, tmp_path)


def test_it_joins_us_and_leaves(memberlist_binary: Path, tmp_path: Path) -> None:
    async def scenario(cluster: Cluster) -> None:
        ours = cluster.ours(1)
        go = await cluster.go(2, join=1)
        await wait_until(lambda: go.saw("joined"), 5)
        assert not any("error" in e for e in go.events)
        await wait_until(lambda: ours.state_of("go2") is MemberState.ALIVE, 5)
        await go.tell("leave")
        await wait_until(lambda: ours.state_of("go2") is MemberState.LEFT, 5)
        await wait_until(lambda: go.saw("left"), 10)

    run(scenario, memberlist_binary, tmp_path)


def test_the_killed_are_declared_dead_on_both_sides_and_come_back(
    memberlist_binary: Path, tmp_path: Path
) -> None:
    async def scenario(cluster: Cluster) -> None:
        go1, go2 = await cluster.go(1), await cluster.go(2, join=1)
        ours3, ours4 = cluster.ours(3, seeds=(1,)), cluster.ours(4, seeds=(1,))
        names = ("go1", "go2", id_of(3), id_of(4))
        await wait_until(lambda: all(ours3.state_of(n) is MemberState.ALIVE for n in names), 10)
        await wait_until(lambda: all(go1.saw("join", node=n) for n in names), 10)

        go2.process.kill()
        await ours4.kill()
        await wait_until(
            lambda: (
                ours3.state_of("go2") is MemberState.DEAD and ours3.state_of(id_of(4)) is MemberState.DEAD
            ),
            DETECTION_BOUND_S,
        )
        await wait_until(
            lambda: go1.saw("leave", node="go2") and go1.saw("leave", node=id_of(4)),
            DETECTION_BOUND_S,
        )
        newcomer = cluster.ours(5, seeds=(1,))
        await wait_until(lambda: newcomer.state_of(id_of(4)) is MemberState.DEAD, 5)
        await newcomer.kill()

        # It has lost its incarnation: 1 again, which all members hold for dead.
        joins = sum(e["event"] == "join" and e.get("node") == id_of(4) for e in go1.events)
        cluster.ours(4, seeds=(3,), meta=b"second life")
        await wait_until(
            lambda: sum(e["event"] == "join" and e.get("node") == id_of(4) for e in go1.events) > joins, 10
        )
        await wait_until(lambda: ours3.state_of(id_of(4)) is MemberState.ALIVE, 5)

    run(scenario, memberlist_binary, tmp_path)


def test_a_half_deaf_node_is_held_alive_through_helpers(memberlist_binary: Path, tmp_path: Path) -> None:
    async def scenario(cluster: Cluster) -> None:
        go1, go2 = await cluster.go(1), await cluster.go(2, join=1)
        ours = cluster.ours(3, seeds=(1,))
        await wait_until(lambda: go1.saw("join", node=id_of(3)) and go2.saw("join", node=id_of(3)), 10)
        ours.node.deaf_to = frozenset({address_of(1)})
        probes = ours.node.statistics()["gossip_probes"]
        # Ten of our probes: about five of each Go node, all of go1's answers lost but for helpers and TCP.
        await wait_until(lambda: ours.node.statistics()["gossip_probes"] >= probes + 10, 40)
        # Where helper and TCP are late once, it is suspected for a moment.
        await wait_until(lambda: ours.state_of("go1") is MemberState.ALIVE, 10)
        changes = [event.member for event in ours.events if isinstance(event, MemberChanged)]
        assert MemberState.DEAD not in {one.state for one in changes}
        assert not go1.saw("leave", node=id_of(3))
        assert not go2.saw("leave", node=id_of(3))

    run(scenario, memberlist_binary, tmp_path)


@pytest.mark.parametrize(
    ("key", "label", "reason"),
    [
        (b"another key 1234", LABEL, "wrong-key"),
        (KEY, b"green", "other-label"),
        (KEY, b"", "no-label"),
        (b"", LABEL, "not-encrypted"),
    ],
)
def test_a_stranger_is_refused_and_reported(
    memberlist_binary: Path, tmp_path: Path, key: bytes, label: bytes, reason: str
) -> None:
    async def scenario(cluster: Cluster) -> None:
        ours = cluster.ours(1)
        go = await cluster.go(2, join=1, key=key, label=label)
        await wait_until(lambda: go.saw("joined"), 15)
        assert any("error" in e for e in go.events if e["event"] == "joined")
        reports = [e for e in ours.events if isinstance(e, UnknownSourceHeard)]
        assert [report.reason for report in reports] == [reason]
        assert set(ours.node.members()) == {id_of(1)}

    run(scenario, memberlist_binary, tmp_path)


def test_proofs_pass_through_memberlist_and_it_takes_a_proven_leave(
    memberlist_binary: Path, tmp_path: Path
) -> None:
    """Two of ours that know each other through a real memberlist alone; it is a member without proofs."""
    first, second = Identity(bytes([1] * 32)), Identity(bytes([2] * 32))

    async def scenario(cluster: Cluster) -> None:
        go = await cluster.go(1)
        reader = cluster.ours(2, seeds=(1,), identity=first)
        await wait_until(lambda: reader.state_of("go1") is MemberState.ALIVE, 5)
        talker = cluster.ours(3, seeds=(1,), meta=b"from python", identity=second)
        for ours in (reader, talker):
            deaf_to = address_of(3 if ours is reader else 2)
            ours.node.deaf_to = frozenset((deaf_to,))
        await wait_until(lambda: reader.state_of(second.node_id) is MemberState.ALIVE, 30)
        await wait_until(lambda: go.saw_meta(second.node_id, "from python"), 5)
        assert reader.node.membership.is_signer(second.node_id)
        assert not reader.node.membership.is_signer("go1")
        talker.node.set_meta(b"changed", trio.current_time())
        await wait_until(lambda: go.saw_meta(second.node_id, "changed"), 10)
        talker.node.membership.leave(trio.current_time())
        await wait_until(lambda: go.saw("leave", node=second.node_id), 10)
        assert reader.node.statistics()["gossip_refused_claim_forged"] == 0

    run(scenario, memberlist_binary, tmp_path)
