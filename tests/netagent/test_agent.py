"""The agent's states and what a change that fails between them leaves behind. The cluster itself is pretended."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import trio
from fakes.virtual import at_end, virtual

from netagent import agent as module
from netagent import config
from netagent.agent import Agent
from netagent.datapath.uplink import Underlay, Uplinks
from netagent.errors import FailedError, RefusedError
from netgossip.entry import Credentials
from netgossip.entry_driver import EntryError
from netgossip.invitation import Token

FOUND = Credentials("d2" * 16, "mesh", "mesh.internal", (b"k" * 32,), (("192.0.2.1", 7956),))
TOKEN = Token("mesh", "d2" * 16, (("192.0.2.1", 7957), ("192.0.2.2", 7957)), b"f" * 32, b"i" * 16, b"s" * 16)


FOUR, SIX = Underlay("192.0.2.9", "eth0", 1500), Underlay("2001:db8::9", "eth0", 1500)


class Pretended(Agent):
    """Enters a cluster by noting it, or fails as `trouble` says."""

    trouble = None
    underlay = FOUR
    uplinks = SimpleNamespace(uplinks=Uplinks((FOUR,)))

    async def _enter(self, keys, seeds=()):
        await trio.lowlevel.checkpoint()
        if self.trouble is not None:
            raise self.trouble
        self.cluster = SimpleNamespace(keys=keys, seeds=seeds)


@pytest.fixture
def load(tmp_path):
    folders = {"state_dir": str(tmp_path / "state"), "run_dir": str(tmp_path / "run")}
    return lambda: config.load(None, folders, {})


def agent(load):
    made = Pretended(load)
    at_end(made._state.close)
    return made


@virtual
async def test_two_agents_do_not_share_a_host(load):
    agent(load)
    with pytest.raises(RefusedError, match="another agent runs on this host already"):
        Pretended(load)


@virtual
async def test_init_starts_a_cluster_once(load):
    one = agent(load)
    with pytest.raises(RefusedError, match=r"belongs to no cluster.*netagent init") as caught:
        one.member()
    assert caught.value.exit_status == 4
    assert await one.init("mesh")
    assert one._state.cluster_keys() == one.cluster.keys
    assert one.cluster.keys.domain == "mesh.internal"
    assert not await one.init("mesh")
    assert not await one.init("")
    with pytest.raises(RefusedError, match=r"in the cluster mesh.*netagent leave"):
        await one.init("other")


@virtual
async def test_several_inits_at_once_are_one(load):
    one, outcomes = agent(load), []

    async def init():
        outcomes.append(await one.init("mesh"))

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(init)
    assert sorted(outcomes) == [False, False, True]


@virtual
async def test_an_init_that_fails_leaves_nothing_that_a_later_start_would_find(load):
    one = agent(load)
    identity = one.identity.node_id
    one.trouble = FailedError("port 7956 is in use")
    with pytest.raises(FailedError, match="7956"):
        await one.init("mesh")
    assert one._state.cluster_keys() is None
    assert one._state.identity(b"x" * 32).node_id == identity
    one.trouble = None
    assert await one.init("mesh")


@virtual
async def test_entering_a_cluster_does_not_take_over_another_ones_journal(load):
    one = agent(load)
    one._state.journal_file.write_text("left by a crash in the middle of a leave")
    await one.init("mesh")
    assert not one._state.journal_file.exists()


def redeeming(monkeypatch, answers):
    asked = []

    async def redeem(address, token, identity, name):
        await trio.lowlevel.checkpoint()
        asked.append(address[0])
        answer = answers[address[0]]
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(module, "redeem", redeem)
    return asked


@virtual
async def test_join_asks_one_after_the_other_until_somebody_lets_it_in(load, monkeypatch):
    one = agent(load)
    away = EntryError("Connection refused", final=False)
    asked = redeeming(monkeypatch, {"192.0.2.1": away, "192.0.2.2": FOUND})
    assert await one.join([], TOKEN) == "192.0.2.2"
    assert asked == ["192.0.2.1", "192.0.2.2"]
    assert one.cluster.seeds == FOUND.members
    assert one._state.cluster_keys().cluster_id == FOUND.cluster_id
    assert await one.join([], TOKEN) == "", "a member already: nobody is asked"
    assert len(asked) == 2


@virtual
async def test_a_join_that_fails_says_what_each_of_them_said(load, monkeypatch):
    one = agent(load)
    away, no = (
        EntryError("Connection refused", final=False),
        EntryError("the invitation has expired", final=True),
    )
    asked = redeeming(monkeypatch, {"192.0.2.1": no, "192.0.2.2": away})
    with pytest.raises(RefusedError, match=r"expired; 192\.0\.2\.2: Connection refused\)") as caught:
        await one.join([], TOKEN)
    assert caught.value.exit_status == 4
    assert asked == ["192.0.2.1", "192.0.2.2"], "a refusal is not proven to be the inviter's"
    redeeming(monkeypatch, {"192.0.2.1": away, "192.0.2.2": away})
    with pytest.raises(
        FailedError, match=r"192\.0\.2\.1: Connection refused; 192\.0\.2\.2: Connection refused"
    ) as caught:
        await one.join([], TOKEN)
    assert caught.value.exit_status == 5
    assert one._state.cluster_keys() is None


@virtual
async def test_a_host_of_the_other_family_asks_nobody_and_stays_as_it_is(load, monkeypatch):
    one = agent(load)
    asked = redeeming(monkeypatch, {})
    one.underlay = SIX
    for advertise, way in ((None, "give this host an IPv4 address"), ("2001:db8::9", "`advertise` an IPv4")):
        one.config = replace(one.config, advertise=advertise)
        one.uplinks = SimpleNamespace(uplinks=Uplinks((FOUR, SIX) if advertise else (SIX,)))
        with pytest.raises(RefusedError) as caught:
            await one.join([], TOKEN)
        assert caught.value.code == "underlay-family"
        assert "IPv4 (192.0.2.1, 192.0.2.2), and this host by IPv6 (2001:db8::9)" in caught.value.message
        assert way in str(caught.value)
    assert asked == []
    assert one._state.cluster_keys() is None


@virtual
async def test_a_host_with_both_families_enters_by_the_cluster_s(load, monkeypatch):
    one = agent(load)
    asked = redeeming(monkeypatch, {"2001:db8::1": FOUND, "192.0.2.2": FOUND})
    one.uplinks = SimpleNamespace(uplinks=Uplinks((FOUR, SIX)))
    one.trouble = FailedError("the disk is full")
    six = replace(TOKEN, addresses=(("2001:db8::1", 7957),))
    with pytest.raises(FailedError):
        await one.join([], six)
    assert one.underlay == FOUR, "as before"
    one.trouble = None
    assert await one.join([], six) == "2001:db8::1"
    assert one.underlay == SIX
    assert asked == ["2001:db8::1"] * 2


@virtual
async def test_of_a_member_s_addresses_only_those_that_can_reach_us_are_tried(load, monkeypatch):
    one = agent(load)
    asked = redeeming(monkeypatch, {"192.0.2.2": FOUND})
    assert await one.join(["2001:db8::1", "192.0.2.2"], replace(TOKEN, addresses=())) == "192.0.2.2"
    assert asked == ["192.0.2.2"]


@pytest.mark.parametrize("enabled", [True, False])
@virtual
async def test_the_plugins_socket_is_taken_only_where_docker_is_served(load, enabled):
    taken = []
    supervision = SimpleNamespace(take_socket=taken.append)
    made = Agent(lambda: config.replaced(load(), {"docker_enabled": enabled}), supervision)
    at_end(made._state.close)
    assert taken == ["docker"] * enabled  # else the service manager's log says that nobody serves it
