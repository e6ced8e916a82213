"""The agent's states and what a change that fails between them leaves behind. The cluster itself is faked."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
import trio
from fakes.virtual import at_end, virtual
from trio._core._run import _TaskStatus

from netagent import config
from netagent.config import Config
from netagent.daemon import agent as module
from netagent.daemon import join
from netagent.daemon.agent import Agent
from netagent.datapath.host.uplink import Underlay, Uplinks
from netagent.errors import FailedError, InputError, RefusedError
from netagent.state_dir import ClusterKeys
from netagent.tunnel import device, wireguard_go
from netgossip.join.admission import Credentials
from netgossip.join.identity import Identity
from netgossip.join.invitation import Token

FOUND = Credentials("d2" * 16, "mesh", "mesh.internal", (b"k" * 32,), (("192.0.2.1", 7956),))
TOKEN = Token("mesh", "d2" * 16, (("192.0.2.1", 7957), ("192.0.2.2", 7957)), b"f" * 32, b"i" * 16, b"s" * 16)


FOUR, SIX = Underlay("192.0.2.9", "eth0", 1500), Underlay("2001:db8::9", "eth0", 1500)


class Pretended(Agent):
    """Enters a cluster by noting it, or fails as `trouble` says."""

    trouble: FailedError | None = None
    underlay = FOUR
    uplinks: Any = SimpleNamespace(uplinks=Uplinks((FOUR,)))
    cluster: Any

    async def _enter(
        self, keys: ClusterKeys, seeds: Sequence[tuple[str, int]] = (), *, encrypt: bool = False
    ) -> None:
        await trio.lowlevel.checkpoint()
        if self.trouble is not None:
            raise self.trouble
        self.cluster = SimpleNamespace(keys=keys, seeds=seeds)


@pytest.fixture
def load(tmp_path: Path) -> Callable[[], Config]:
    folders = {"state_dir": str(tmp_path / "state"), "run_dir": str(tmp_path / "run")}
    return lambda: config.load(None, folders, {})


def agent(load: Callable[[], Config]) -> Pretended:
    made = Pretended(load)
    at_end(made._state.close)
    return made


@virtual
async def test_two_agents_do_not_share_a_host(load: Callable[[], Config]) -> None:
    agent(load)
    with pytest.raises(RefusedError, match="another agent is already running on this host"):
        Pretended(load)


@virtual
async def test_init_starts_a_cluster_once(load: Callable[[], Config]) -> None:
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
async def test_init_refuses_a_domain_with_no_room_for_names(load: Callable[[], Config]) -> None:
    one = agent(load)
    domains = [".".join(["a" * 49, "b" * length]) for length in (51, 50)]
    one.config = dataclasses.replace(one.config, domain=domains[0])
    with pytest.raises(InputError, match=r"has 101 characters.*set domain to one of at most 100"):
        await one.init("mesh")
    assert one.cluster is None
    one.config = dataclasses.replace(one.config, domain=domains[1])
    assert await one.init("mesh")


@virtual
async def test_several_inits_at_once_are_one(load: Callable[[], Config]) -> None:
    one, outcomes = agent(load), []

    async def init() -> None:
        outcomes.append(await one.init("mesh"))

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(init)
    assert sorted(outcomes) == [False, False, True]


@virtual
async def test_an_init_that_fails_leaves_nothing_that_a_later_start_would_find(
    load: Callable[[], Config],
) -> None:
    one = agent(load)
    identity = one.identity.node_id
    one.trouble = FailedError("port 7956 is in use")
    with pytest.raises(FailedError, match="7956"):
        await one.init("mesh")
    assert one._state.cluster_keys() is None
    assert one._state.identity(b"x" * 32).node_id == identity
    one.trouble = None
    assert await one.init("mesh")


class Immovable:
    """A cluster that this host enters, whose ports at the address that it has by then are taken."""

    def __init__(self, _config: Config, keys: ClusterKeys, **_: Any) -> None:
        self.keys, self.underlay, self.ended = keys, FOUR, False

    def set_seeds(self, seeds: tuple[()]) -> None:
        pass

    async def run(self, task_status: _TaskStatus) -> None:
        task_status.started()
        try:
            await trio.sleep_forever()
        finally:
            self.ended = True

    async def move(self, underlay: Underlay) -> None:
        raise FailedError("port 7956 is in use")


@virtual
async def test_a_host_whose_address_changes_while_it_enters_and_can_t_follow_is_in_no_cluster(
    load: Callable[[], Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    entered: list[Immovable] = []

    def enter(*arguments: Any, **options: Any) -> Immovable:
        entered.append(Immovable(*arguments, **options))
        return entered[-1]

    monkeypatch.setattr(module, "Cluster", enter)
    one = Agent(load)
    at_end(one._state.close)
    one.underlay = SIX
    async with trio.open_nursery() as one._nursery:
        with pytest.raises(FailedError, match="7956"):
            await one.init("mesh")
        assert entered[0].ended
        assert one.cluster is None
        assert one._state.cluster_keys() is None
        one._nursery.cancel_scope.cancel()


@virtual
async def test_entering_a_cluster_does_not_take_over_another_ones_journal(load: Callable[[], Config]) -> None:
    one = agent(load)
    one._state.journal_file.write_text("left by a crash in the middle of a leave")
    await one.init("mesh")
    assert not one._state.journal_file.exists()


def let_in(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Any host lets this one in."""
    asked = []

    async def redeem(address: tuple[str, int], token: Token, identity: Identity, name: str) -> Credentials:
        await trio.lowlevel.checkpoint()
        asked.append(address[0])
        return FOUND

    monkeypatch.setattr(join, "redeem", redeem)
    return asked


@virtual
async def test_join_enters_the_cluster_that_lets_it_in_once(
    load: Callable[[], Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = agent(load)
    asked = let_in(monkeypatch)
    through = await one.join(["192.0.2.3"], TOKEN)
    assert asked == [through], "the first that answers; the others are not asked any more"
    assert through in {"192.0.2.3", *(host for host, _ in TOKEN.addresses)}
    assert one.cluster.seeds == FOUND.members
    keys = one._state.cluster_keys()
    assert keys is not None
    assert keys.cluster_id == FOUND.cluster_id
    assert await one.join([], TOKEN) == "", "a member already: it asks no host"
    with pytest.raises(RefusedError, match=r"in the cluster mesh.*netagent leave"):
        await one.join([], replace(TOKEN, cluster_id="e3" * 16))
    assert len(asked) == 1


@virtual
async def test_a_join_that_is_refused_leaves_nothing(load: Callable[[], Config]) -> None:
    one = agent(load)
    one.underlay = SIX
    one.uplinks = SimpleNamespace(uplinks=Uplinks((SIX,)))
    with pytest.raises(RefusedError, match="one family of addresses"):
        await one.join([], TOKEN)
    assert one._state.cluster_keys() is None
    assert one.underlay == SIX


@virtual
async def test_a_host_that_enters_by_another_address_and_fails_is_reached_as_before(
    load: Callable[[], Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = agent(load)
    let_in(monkeypatch)
    one.uplinks = SimpleNamespace(uplinks=Uplinks((FOUR, SIX)))
    one.trouble = FailedError("the disk is full")
    six = replace(TOKEN, addresses=(("2001:db8::1", 7957),))
    with pytest.raises(FailedError):
        await one.join([], six)
    assert one.underlay == FOUR
    one.trouble = None
    assert await one.join([], six) == "2001:db8::1"
    assert one.underlay == SIX


@virtual
async def test_a_refused_configuration_changes_nothing_and_is_shown_until_it_is_corrected(
    load: Callable[[], Config],
) -> None:
    one = agent(load)
    before = one.config
    one._load_config = refuse
    one._reload()
    assert (one.config, one.config_problem) == (before, "no such key; correct it")
    changed = {"seeds": ("192.0.2.7",), "zone": "rack7"}
    one._load_config = lambda: config.replaced(before, changed)
    one._reload()
    assert (one.config.seeds, one.config_problem) == (("192.0.2.7",), "")
    assert (one.config.zone, one.waiting_keys) == ("", ["zone"]), "this one needs a restart"
    one._load_config = refuse
    one._reload()
    assert one.waiting_keys == ["zone"]
    one._load_config = lambda: before
    one._reload()
    assert (one.config, one.waiting_keys) == (before, [])


def refuse() -> NoReturn:
    raise InputError("no such key", hint="correct it")


@pytest.mark.parametrize("enabled", [True, False])
@virtual
async def test_the_plugins_socket_is_taken_only_where_docker_is_served(
    load: Callable[[], Config], enabled: bool
) -> None:
    taken: list[str] = []
    supervision: Any = SimpleNamespace(take_socket=taken.append)
    made = Agent(lambda: config.replaced(load(), {"docker_enabled": enabled}), supervision)
    at_end(made._state.close)
    assert taken == ["docker"] * enabled  # else the service manager's log says that no part uses it


@virtual
async def test_a_host_that_cannot_encrypt_does_not_enter_a_cluster_that_does(
    load: Callable[[], Config], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    one = agent(load)

    async def admit(*_: object, **__: object) -> join.Admission:
        await trio.lowlevel.checkpoint()
        return join.Admission(replace(FOUND, encrypts=True), "192.0.2.1", FOUR)

    async def no_family(_: object) -> None:
        await trio.lowlevel.checkpoint()

    monkeypatch.setattr(module, "be_admitted", admit)
    program = tmp_path / "wireguard-go"
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(device, "find_family", no_family)
    with pytest.raises(FailedError, match=r"wireguard-go is not installed.*apt install wireguard-go"):
        await one.join([], TOKEN)
    assert (one.cluster, one._state.cluster_keys()) == (None, None)
    program.touch(mode=0o755)
    monkeypatch.setattr(wireguard_go, "_TUN", str(tmp_path / "tun"))
    with pytest.raises(FailedError, match=r"tun cannot be opened: No such file.*modprobe tun"):
        await one.join([], TOKEN)
    (tmp_path / "tun").touch()
    await one.join([], TOKEN)
    kept = one._state.cluster_keys()
    assert kept is not None
    assert kept.encrypts, "known to every later start, before any record is"
