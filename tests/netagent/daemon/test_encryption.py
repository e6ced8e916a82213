"""When a host changes its key of the tunnel, and in which order."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from fakes.registry import H1, H2, Writer, host
from fakes.virtual import virtual

from netagent.daemon.encryption import Encryption
from netagent.datapath.host.uplink import Underlay
from netagent.errors import FailedError
from netagent.model.records import EncryptionRecord, EncryptionStage, Record, TunnelRecord
from netagent.registry.encryption import tunnel_of
from netagent.registry.local_rows import LocalRows
from netagent.registry.state_store import Snapshot
from netagent.registry.view import RegistryView
from netagent.state_dir import StateDir
from netagent.tunnel.keys import public_key_of
from netagent.tunnel.peer import PeerState, TunnelPeer
from netgossip.types import Member, MemberState

DAY_S = 86400.0
THEIRS = b"t" * 32
ENCRYPTS = EncryptionRecord(True, 1, 0, "", stage=EncryptionStage.FENCED, is_reached=True)


class Device:
    """Notes each key that it gets, in `log`."""

    backend, trouble, name = "wireguard-go", "", "nx-tunnel"

    def __init__(self, log: list[tuple[str, bytes]]) -> None:
        self.log = log
        self.handshake_s_ago: float | None = 10.0
        self.fails = False

    async def ensure(
        self, private_key: bytes, _port: int, _addresses: Sequence[str], _mtu_bytes: int
    ) -> None:
        if self.fails:
            raise FailedError("no device")
        said = ("device", public_key_of(private_key))
        if said not in self.log:
            self.log.append(said)

    async def set_peers(
        self,
        peers: Mapping[bytes, TunnelPeer],
        *,
        repoint: Collection[bytes] = (),
        renew: Collection[bytes] = (),
    ) -> None:
        assert not [*repoint, *renew]

    async def states(self) -> Mapping[bytes, PeerState]:
        state = PeerState(endpoint=None, handshake_s_ago=self.handshake_s_ago, received_bytes=0, sent_bytes=0)
        return {THEIRS: state}


class Setting:
    """One host, whose cluster encrypts, and another."""

    def __init__(self, folder: Path) -> None:
        self.log: list[tuple[str, bytes]] = []
        self.state = StateDir(folder / "state", folder / "run", folder / "keys.json")
        self.device = Device(self.log)
        self.writers = {one: Writer(one) for one in (H1, H2)}
        self.view = RegistryView(H1)
        for owner, record in (
            (H1, host("h1")),
            (H2, host("h2", underlay="192.0.2.2")),
            (H1, ENCRYPTS),
            (H2, ENCRYPTS),
            (H2, TunnelRecord(THEIRS, 7955)),
        ):
            self.view = self.view.with_entries(self.writers[owner].put(record))
        self.part = Encryption(
            cast("Any", None),
            cast("Any", SimpleNamespace(put=self.put)),
            cast("Any", self.device),
            cast("Any", None),
            ring=cast("Any", None),
            state=self.state,
            port=7955,
            keeps=False,
            underlay=lambda: Underlay(address="192.0.2.1", device="eth0", mtu_bytes=1500),
            rotate_every_s=lambda: DAY_S,
            takes_direct=lambda: self.takes,
        )
        self.takes: bool | None = False

    async def put(self, record: Record) -> None:
        self.view = self.view.with_entries(self.writers[H1].put(record))
        if isinstance(record, TunnelRecord):
            self.log.append(("record", record.public_key))

    def be(self, state: MemberState) -> None:
        self.view = self.view.with_member(Member(H2, ("192.0.2.2", 7956), state, 1))

    def age(self, seconds: float) -> None:
        since_s = self.state.tunnel_key_since_s()
        assert since_s is not None
        os.utime(self.state.state_dir / "tunnel_key", (since_s - seconds, since_s - seconds))

    async def step(self) -> None:
        await self.part._rotate_if_due(self.view)
        await self.part._step(Snapshot(1, self.view, LocalRows(), {}))

    def says_it_takes(self) -> bool:
        record = tunnel_of(self.view, H1)
        assert record is not None
        return record.takes_direct


@pytest.fixture
def setting(tmp_path: Path) -> Iterator[Setting]:
    made = Setting(tmp_path)
    yield made
    made.state.close()


@virtual
async def test_a_key_changes_daily_and_the_device_has_it_before_the_others_hear_of_it(
    setting: Setting,
) -> None:
    setting.be(MemberState.ALIVE)
    await setting.step()
    ((first, former), (second, same)) = setting.log
    assert (first, second, same) == ("device", "record", former)
    setting.age(0.8 * DAY_S)
    await setting.step()
    assert len(setting.log) == 2, "not yet"
    setting.age(0.4 * DAY_S)
    await setting.step()
    assert [what for what, _ in setting.log[2:]] == ["device", "record"]
    assert {key for _, key in setting.log[2:]} != {former}
    await setting.step()
    assert len(setting.log) == 4, "its age counts from the change"


@virtual
async def test_a_change_that_fails_half_way_is_finished_with_the_same_key(setting: Setting) -> None:
    setting.be(MemberState.ALIVE)
    await setting.step()
    setting.age(2 * DAY_S)
    setting.device.fails = True
    with pytest.raises(FailedError):
        await setting.step()
    setting.device.fails = False
    kept = public_key_of(setting.state.tunnel_key(bytes(32)))
    await setting.step()
    assert setting.log[2:] == [("device", kept), ("record", kept)]


@virtual
async def test_a_host_whose_agent_is_away_and_whose_tunnel_works_holds_a_change_up(setting: Setting) -> None:
    setting.be(MemberState.ALIVE)
    await setting.step()
    setting.be(MemberState.DEAD)
    setting.age(2 * DAY_S)
    await setting.step()
    assert len(setting.log) == 2, "it would be cut off until its agent is back"
    setting.device.handshake_s_ago = 200.0
    await setting.step()
    assert len(setting.log) == 4, "it is gone altogether"


@virtual
async def test_a_key_of_the_future_is_old(setting: Setting) -> None:
    setting.be(MemberState.ALIVE)
    await setting.step()
    setting.age(-5 * DAY_S)
    await setting.step()
    assert len(setting.log) == 4


@virtual
async def test_after_a_start_the_last_word_on_segments_stands_while_their_program_is_there(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting.be(MemberState.ALIVE)
    setting.takes = None
    asked: list[str] = []
    is_there = True

    def takes_at(name: str) -> bool:
        asked.append(name)
        return is_there

    monkeypatch.setattr("netagent.daemon.encryption.takes_at", takes_at)
    await setting.step()
    assert not setting.says_it_takes()
    assert not asked, "it never said so"
    setting.takes = True
    await setting.step()
    assert setting.says_it_takes()
    setting.takes = None
    await setting.step()
    assert setting.says_it_takes()
    assert asked == [setting.device.name]
    setting.takes = False
    await setting.step()
    assert not setting.says_it_takes()
    setting.takes = True
    await setting.step()
    setting.takes, is_there = None, False
    await setting.step()
    assert not setting.says_it_takes(), "the machine has started anew"
