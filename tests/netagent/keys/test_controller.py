"""Hosts change their ring by their records."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import trio
from fakes.agent_host import AgentHost, Fabric
from fakes.virtual import virtual

from netagent.errors import FailedError, RefusedError
from netagent.keys import controller
from netagent.keys.controller import CATCH_UP_S, LOOK_S, RETIRE_S, VOUCH_S, RingKeeper
from netagent.keys.picture import ring_record
from netagent.keys.ring_store import RingStore
from netagent.keys.stages import pending
from netagent.model.ids import HostId, KeyId
from netagent.model.records import ForgetRecord
from netagent.model.ring_key import (
    MAX_ADMITTED,
    MAX_KEY_NUMBER,
    HeldKey,
    RingKeysRecord,
    SealedKey,
    SealedKeysRecord,
    exchange_tag,
)
from netagent.registry.view import RegistryView, compromised_keys
from netagent.state_dir import ClusterKeys
from netgossip.join.driver import EntryError
from netgossip.join.identity import Identity
from netgossip.join.readmission import NumberedKey, PeerRing
from netgossip.types import Address

EVERY_S = 600.0


class OwnIdentity(Identity):
    """Has the id that the fake host has."""

    def __init__(self, host_id: HostId) -> None:
        super().__init__(bytes.fromhex(host_id) * 2)
        self.node_id = host_id


class Ringed:
    """A host and its ring."""

    def __init__(self, host: AgentHost) -> None:
        self.host = host
        self.disk = host.keys
        self.is_full = False
        self.every_s = 0.0
        self.compromised: frozenset[KeyId] = frozenset()
        self.refusals: list[str] = []
        self.addresses: dict[HostId, Address] = {}
        self.store = RingStore(self.disk, self.save, lambda: 1_700_000_000 + trio.current_time())
        self.keeper = RingKeeper(
            live=host.live,
            publisher=host.publisher,
            store=self.store,
            identity=OwnIdentity(host.host_id),
            is_signer=lambda _host: True,
            record_address=self.addresses.get,
            rotate_every_s=lambda: self.every_s,
            refused=self.refusals.append,
            compromised=self._compromised,
        )

    def _compromised(self, _view: RegistryView) -> frozenset[KeyId]:
        return self.compromised

    def save(self, keys: ClusterKeys) -> None:
        if self.is_full:
            raise FailedError("no space", thing="keyring", hint="free some")
        self.disk = keys


async def ringed(nursery: trio.Nursery, size: int = 3) -> tuple[Fabric, list[Ringed]]:
    fabric = Fabric(nursery, size)
    await fabric.tell_hosts()
    hosts = [Ringed(one) for one in fabric.hosts]
    for one in hosts:
        nursery.start_soon(one.keeper.run)
    await trio.sleep(5)
    return fabric, hosts


async def until(holds: Callable[[], bool], within_s: float = 20.0) -> None:
    with trio.fail_after(within_s):
        while not holds():
            await trio.sleep(0.1)


def use(hosts: list[Ringed], key_id: KeyId) -> bool:
    return all(one.store.ring[0].key_id == key_id for one in hosts)


@virtual
async def test_all_hosts_take_a_new_key_and_drop_the_old_one() -> None:
    async with trio.open_nursery() as nursery:
        _, hosts = await ringed(nursery)
        made = await hosts[2].keeper.rotate()
        with pytest.raises(RefusedError, match="not in use on all hosts yet"):
            await hosts[2].keeper.rotate()
        await until(partial(use, hosts, made))
        assert all(len(one.store.keyring.keys) == 2 for one in hosts)
        await until(lambda: all(len(one.store.keyring.keys) == 1 for one in hosts), 2 * RETIRE_S)
        assert len({one.disk.keys for one in hosts}) == 1
        assert not any(len(one.host.live.view.store.key_records[one.host.host_id]) > 1 for one in hosts), (
            "sealed keys are withdrawn"
        )
        nursery.cancel_scope.cancel()


@virtual
async def test_the_smallest_host_changes_the_key_when_it_is_old() -> None:
    async with trio.open_nursery() as nursery:
        _, hosts = await ringed(nursery)
        for one in hosts:
            one.every_s = EVERY_S
        first = hosts[0].store.ring[0].key_id
        await trio.sleep(EVERY_S - 60)
        assert use(hosts, first)
        await until(lambda: not use(hosts, first), 120)
        await until(lambda: len({one.store.ring[0].key_id for one in hosts}) == 1)
        nursery.cancel_scope.cancel()


@virtual
async def test_a_host_that_cannot_write_a_key_does_not_say_that_it_has_it() -> None:
    async with trio.open_nursery() as nursery:
        _, hosts = await ringed(nursery)
        first = hosts[0].store.ring[0].key_id
        hosts[1].is_full = True
        made = await hosts[0].keeper.rotate()
        await trio.sleep(60)
        assert use(hosts, first)
        assert len(hosts[1].store.keyring.keys) == 1
        hosts[1].is_full = False
        await until(partial(use, hosts, made))
        nursery.cancel_scope.cancel()


@virtual
async def test_a_compromised_key_goes_without_waiting_for_hosts_that_are_away() -> None:
    async with trio.open_nursery() as nursery:
        fabric, hosts = await ringed(nursery)
        old = hosts[0].store.ring[0].key_id
        fabric.cut(fabric.hosts[:2], fabric.hosts[2:])
        for one in hosts[:2]:
            one.compromised = frozenset({old})
        await until(
            lambda: not any(old == key.key_id for one in hosts[:2] for key in one.store.ring), 2 * RETIRE_S
        )
        assert hosts[2].store.ring[0].key_id == old
        nursery.cancel_scope.cancel()


@virtual
async def test_a_revoked_host_has_no_key_of_a_change_that_was_under_way() -> None:
    async with trio.open_nursery() as nursery:
        _, hosts = await ringed(nursery)
        first, revoked = hosts[0], hosts[2].host.host_id
        hosts[1].is_full = True  # it holds the change up
        made = await first.keeper.rotate()
        await until(lambda: made in {one.key_id for one in hosts[2].store.ring})
        said = ForgetRecord(
            revoked,
            settled=True,
            revoked=True,
            key_ids=hosts[1].keeper.keys_known_by(revoked),
            compromised=True,
        )
        assert made in said.key_ids, "the host that writes this lacks the key itself"
        nursery.cancel_scope.cancel()


@virtual
async def test_a_key_given_before_the_revocation_was_heard_is_not_the_last() -> None:
    async with trio.open_nursery() as nursery:
        _, hosts = await ringed(nursery)
        old, revoked = hosts[0].store.ring[0].key_id, hosts[2].host.host_id
        for one in hosts:
            one.keeper.compromised = compromised_keys
        # As one side of a partition has it: a key is given there, and the other side's word names the old one only.
        made = await hosts[0].keeper.rotate()
        await until(lambda: made in {one.key_id for one in hosts[2].store.ring})
        said = ForgetRecord(revoked, settled=True, revoked=True, key_ids=(old,), compromised=True)
        await hosts[1].host.publisher.put(said)
        staying = hosts[:2]
        await until(lambda: not any(one.store.ring[0].key_id in {old, made} for one in staying))
        assert use(staying, staying[0].store.ring[0].key_id)
        assert staying[0].store.ring[0].key_id not in {one.key_id for one in hosts[2].store.ring}
        nursery.cancel_scope.cancel()


@virtual
async def test_a_start_while_a_key_is_compromised_leaves_no_host_behind() -> None:
    async with trio.open_nursery() as nursery:
        fabric = Fabric(nursery, 3)
        await fabric.tell_hosts()
        hosts = [Ringed(one) for one in fabric.hosts]
        old = hosts[0].store.ring[0].key_id
        for one in hosts[1:]:
            nursery.start_soon(one.keeper.run)
        async with trio.open_nursery() as first_run:
            first_run.start_soon(hosts[0].keeper.run)
            await trio.sleep(5)
            first_run.cancel_scope.cancel()
        hosts[2].is_full = True  # it takes no key for now, as a host of the release before
        again = Ringed(fabric.hosts[0])
        for one in (again, *hosts[1:]):
            one.compromised = frozenset({old})
        nursery.start_soon(again.keeper.run)
        await trio.sleep(60)
        assert again.store.ring[0].key_id == old, "the third host would not understand it"
        hosts[2].is_full = False
        await until(lambda: again.store.ring[0].key_id != old)
        await until(lambda: use([again, *hosts[1:]], again.store.ring[0].key_id))
        nursery.cancel_scope.cancel()


@virtual
async def test_a_host_that_came_after_one_revocation_counts_at_the_next() -> None:
    async with trio.open_nursery() as nursery:
        fabric, hosts = await ringed(nursery)
        late = fabric.hosts[2].host_id
        keeper = hosts[0].keeper
        keeper._met.discard(late)  # as if it had come later
        hosts[0].compromised = frozenset({KeyId("ab" * 16)})  # long gone
        await trio.sleep(2 * LOOK_S)
        hosts[0].compromised |= {hosts[0].store.ring[0].key_id}
        assert keeper.is_known(late)
        nursery.cancel_scope.cancel()


@virtual
async def test_a_stranger_that_came_by_a_compromised_key_gets_no_other_by_saying_that_it_has_it() -> None:
    async with trio.open_nursery() as nursery:
        fabric, hosts = await ringed(nursery)
        stranger, keeper = fabric.hosts[2].host_id, hosts[0].keeper
        old = hosts[0].store.ring[0].key_id
        for one in hosts[:2]:
            one.keeper._met.discard(stranger)
        hosts[2].keeper._met.clear()
        for one in hosts:
            one.compromised = frozenset({old})
        hosts[2].store.add(
            NumberedKey(b"\7" * 32, 9)
        )  # or it says that it has the others', whose ids it reads
        await until(lambda: use(hosts[:2], hosts[0].store.ring[0].key_id) and not use(hosts[:1], old))
        assert not keeper.is_known(stranger), "it would get the ring"
        fabric.cut(fabric.hosts[:2], fabric.hosts[2:])
        await trio.sleep(3 * RETIRE_S)
        assert old not in {one.key_id for one in hosts[0].store.ring}
        assert not keeper.is_known(stranger), (
            "nor later: it has never been understood under a key that is not"
        )
        nursery.cancel_scope.cancel()


@virtual
async def test_a_host_that_gives_many_false_keys_keeps_none_out() -> None:
    async with trio.open_nursery() as nursery:
        _, hosts = await ringed(nursery)
        taker = hosts[2].host
        known = ring_record(taker.live.view, taker.host_id)
        assert known is not None
        tag = exchange_tag(known.exchange_key)
        for number in range(1100):
            false = SealedKey(taker.host_id, tag, number.to_bytes(32, "big"), bytes(48))
            key_id = KeyId((number + 1).to_bytes(16, "big").hex())
            await hosts[0].host.publisher.put(SealedKeysRecord(key_id, 9, 0, (false,)))
        hosts[0].is_full = True
        made = await hosts[1].keeper.rotate()
        await until(lambda: made in {one.key_id for one in hosts[2].store.ring}, 60)
        nursery.cancel_scope.cancel()


@virtual
async def test_an_installed_key_is_on_all_hosts_and_used_by_none_before_an_operator_says_so() -> None:
    async with trio.open_nursery() as nursery:
        _, hosts = await ringed(nursery)
        first = hosts[0].store.ring[0].key_id
        hosts[1].is_full = True
        installed, created = await hosts[2].keeper.install(None)
        assert created
        with pytest.raises(RefusedError, match="h2"):
            await hosts[2].keeper.use(installed)
        with pytest.raises(RefusedError, match="this host"):
            await hosts[1].keeper.use(installed)
        hosts[1].is_full = False
        await until(lambda: all(one.store.key_of(installed) is not None for one in hosts))
        await trio.sleep(2 * RETIRE_S)
        assert use(hosts, first)
        assert all(len(one.store.ring) == 2 for one in hosts)
        key = hosts[0].store.key_of(installed)
        assert await hosts[0].keeper.install(key) == (installed, False)
        assert await hosts[0].keeper.use(installed)
        await until(partial(use, hosts, installed))
        assert not await hosts[0].keeper.use(installed)
        with pytest.raises(RefusedError, match="older than the one in use"):
            await hosts[0].keeper.use(first)
        await until(lambda: all(len(one.store.ring) == 1 for one in hosts), 2 * RETIRE_S)
        nursery.cancel_scope.cancel()


@virtual
async def test_a_removed_key_goes_from_all_hosts_and_from_those_that_were_away() -> None:
    async with trio.open_nursery() as nursery:
        fabric, hosts = await ringed(nursery)
        first = hosts[0].store.ring[0].key_id
        with pytest.raises(RefusedError, match="in use"):
            await hosts[0].keeper.remove(first)
        installed, _ = await hosts[0].keeper.install(None)
        await until(lambda: all(one.store.key_of(installed) is not None for one in hosts))
        fabric.cut(fabric.hosts[:2], fabric.hosts[2:])
        await until(lambda: not fabric.hosts[0].live.view.hosts[fabric.hosts[2].host_id].is_live)
        assert await hosts[1].keeper.remove(installed)
        assert not await hosts[1].keeper.remove(installed)
        await until(lambda: all(one.store.key_of(installed) is None for one in hosts[:2]), 2 * RETIRE_S)
        made = await hosts[0].keeper.rotate()
        await until(partial(use, hosts[:2], made))
        with pytest.raises(RefusedError, match="h3 is away, and knows no newer ring key"):
            await hosts[0].keeper.remove(first)
        assert await hosts[0].keeper.remove(first, force=True)
        await until(lambda: all(len(one.store.ring) == 1 for one in hosts[:2]), 2 * RETIRE_S)
        fabric.heal()
        await until(lambda: hosts[2].store.key_of(installed) is None, 3 * RETIRE_S)
        nursery.cancel_scope.cancel()


@virtual
async def test_a_host_that_is_alone_for_long_is_told_that_it_was_revoked_soon_after_the_cut(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    healed = trio.Event()

    async def ask(address: Address, _conversation: object) -> PeerRing:
        """h2 has no power; h1 answers after the cut."""
        if healed.is_set() and address == ("192.0.2.1", 7957):
            raise EntryError("you were revoked", final=True)
        await trio.sleep(10)
        raise EntryError("did not answer within 10 s", final=False)

    monkeypatch.setattr(controller, "return_to", ask)
    async with trio.open_nursery() as nursery:
        fabric, hosts = await ringed(nursery)
        for number, one in enumerate(hosts, 1):
            hosts[2].addresses[one.host.host_id] = (f"192.0.2.{number}", 7957)
        fabric.cut(fabric.hosts[2:], fabric.hosts[:2])
        for length_s in (40, 200, 1000):
            await trio.sleep(length_s)
            hosts[2].refusals.clear()
            healed.set()
            await until(lambda: "you were revoked" in hosts[2].refusals, 20)
            healed = trio.Event()
        nursery.cancel_scope.cancel()


@virtual
async def test_a_host_that_is_just_back_answers_no_returns() -> None:
    async with trio.open_nursery() as nursery:
        _, hosts = await ringed(nursery)
        one, other = hosts[0].keeper, hosts[1].host.host_id
        assert not one.may_return(other), "it may not have heard of a revocation in its absence"
        await trio.sleep(CATCH_UP_S)
        assert one.may_return(other)
        ring = (NumberedKey(b"k" * 32, 7),)
        one.note_returned(PeerRing(other, ring))
        await until(lambda: not one.may_return(other), 2 * LOOK_S)
        await trio.sleep(CATCH_UP_S)
        assert one.may_return(other)
        one.note_returned(PeerRing(other, ring))
        await trio.sleep(2 * LOOK_S)
        assert one.may_return(other), "it had that key"
        standby, _ = await one.install(None)
        key = hosts[0].store.key_of(standby)
        assert key is not None
        one.note_returned(PeerRing(other, (NumberedKey(key, 8),)))
        await until(lambda: hosts[0].store.ring[0].key_id == standby)
        nursery.cancel_scope.cancel()


@virtual
async def test_a_key_with_the_highest_number_stops_no_change_and_names_its_host() -> None:
    async with trio.open_nursery() as nursery:
        fabric = Fabric(nursery, 3)
        await fabric.tell_hosts()
        hosts = [Ringed(one) for one in fabric.hosts]
        for one in hosts[:2]:
            nursery.start_soon(one.keeper.run)
        first, liar = hosts[0].store.ring[0].key_id, hosts[2]
        held = sorted([HeldKey(first, 0), HeldKey(KeyId("f" * 32), MAX_KEY_NUMBER)])
        await liar.host.publisher.put(RingKeysRecord(bytes(32), first, tuple(held)))
        await trio.sleep(5)
        picture = hosts[0].keeper.picture()
        assert [one.host_id for one in picture.peers if one.overstated] == [liar.host.host_id]
        assert pending(picture) is None
        await hosts[0].keeper.rotate()
        assert max(one.number for one in hosts[0].store.ring) == 1
        nursery.cancel_scope.cancel()


@virtual
async def test_a_host_that_was_admitted_while_a_key_is_compromised_gets_the_next_one() -> None:
    async with trio.open_nursery() as nursery:
        fabric, hosts = await ringed(nursery, 5)
        old = hosts[0].store.ring[0].key_id
        newcomer, strangers = fabric.hosts[2].host_id, [fabric.hosts[3].host_id, fabric.hosts[4].host_id]
        for one in hosts[:2]:
            one.keeper._met -= {newcomer, *strangers}
        hosts[2].keeper._met.clear()
        # One stranger vouches for the other: neither word counts.
        hosts[3].keeper.note_admitted(strangers[1])
        hosts[4].keeper.note_admitted(strangers[0])
        for one in hosts:
            one.compromised = frozenset({old})
        await trio.sleep(0.5)
        hosts[1].keeper.note_admitted(newcomer)
        await until(lambda: use(hosts[:2], hosts[0].store.ring[0].key_id) and not use(hosts[:1], old))
        await until(lambda: hosts[0].store.ring[0].key_id in {one.key_id for one in hosts[2].store.ring})
        assert hosts[0].keeper.is_known(newcomer)
        assert not any(map(hosts[0].keeper.is_known, strangers))
        for one in hosts[3:]:
            assert hosts[0].store.ring[0].key_id not in {held.key_id for held in one.store.ring}
        # The newcomer cannot tell members from strangers before the others are silent to those.
        fabric.cut(fabric.hosts[:3], fabric.hosts[3:])
        await until(lambda: use(hosts[:3], hosts[0].store.ring[0].key_id))
        nursery.cancel_scope.cancel()


@virtual
async def test_a_host_vouches_for_the_last_that_it_admitted_and_not_for_ever() -> None:
    async with trio.open_nursery() as nursery:
        _, hosts = await ringed(nursery)
        keeper = hosts[0].keeper

        def named() -> set[HostId]:
            record = ring_record(hosts[1].host.live.view, hosts[0].host.host_id)
            assert record is not None
            return set(record.admitted)

        admitted = [HostId(f"{number:032x}") for number in range(MAX_ADMITTED + 3)]
        for one in admitted:
            keeper.note_admitted(one)
        await until(lambda: named() == set(admitted[3:]))
        await trio.sleep(VOUCH_S)
        keeper.note_admitted(admitted[0])
        await until(lambda: named() == set(admitted[:1]))
        nursery.cancel_scope.cancel()


@virtual
async def test_a_newcomer_that_knows_a_part_of_the_cluster_takes_the_key_of_another_part() -> None:
    async with trio.open_nursery() as nursery:
        fabric = Fabric(nursery, 3)
        hosts = [Ringed(one) for one in fabric.hosts]
        old, newcomer = hosts[0].store.ring[0].key_id, hosts[2].keeper
        newcomer._met.clear()
        newcomer._knows_since = float("inf")  # it begins with an empty view
        await fabric.tell_hosts()
        for one in hosts:
            nursery.start_soon(one.keeper.run)
        await trio.sleep(3)
        newcomer._met.discard(fabric.hosts[0].host_id)  # it had not heard of this one yet
        for one in hosts:
            one.compromised = frozenset({old})
        await until(lambda: use(hosts, hosts[0].store.ring[0].key_id) and not use(hosts, old))
        nursery.cancel_scope.cancel()


@virtual
async def test_newcomers_get_sound_keys_alone() -> None:
    async with trio.open_nursery() as nursery:
        _, hosts = await ringed(nursery)
        keeper, old = hosts[1].keeper, hosts[1].store.keys.keys[0]
        assert keeper.keys_for_newcomers() == (old,)
        for one in hosts:
            one.compromised = frozenset({one.store.ring[0].key_id})
        assert keeper.keys_for_newcomers() == ()
        await until(lambda: bool(keeper.keys_for_newcomers()))
        assert old in hosts[1].store.keys.keys, "it is accepted for a while"
        assert old not in keeper.keys_for_newcomers()
        nursery.cancel_scope.cancel()
