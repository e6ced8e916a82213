"""Hosts that decide from each other's records end with one key, whatever happens meanwhile."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

import pytest
from fakes.registry import H1, H2, H3, identifier

from netagent.keys.stages import (
    KeyPicture,
    KeySteps,
    PeerKeys,
    RingKey,
    decide,
    lacking,
    next_number,
    pending,
    standby_keys,
    waiting_for,
)
from netagent.model.ids import HostId, KeyId
from netagent.model.ring_key import MAX_STANDBY, HeldKey

OLD, NEW, OTHER = (KeyId(identifier(number)) for number in (1, 2, 3))
WEEK = 7 * 86400.0


def ring(*keys: tuple[KeyId, int]) -> tuple[RingKey, ...]:
    return tuple(RingKey(key_id, number, 0.0) for key_id, number in keys)


def peer(host: HostId, primary: KeyId | None, *keys: tuple[KeyId, int], is_live: bool = True) -> PeerKeys:
    return PeerKeys(host, is_live, primary, dict(keys))


def test_the_smallest_live_host_makes_a_key_when_its_primary_is_old() -> None:
    one = KeyPicture(
        local=H1,
        ring=ring((OLD, 1)),
        peers=(peer(H2, OLD, (OLD, 1)),),
        rotate_every_s=WEEK,
        now_s=WEEK,
    )
    assert decide(one).rotate
    assert not decide(replace(one, now_s=WEEK - 1)).rotate
    assert not decide(replace(one, rotate_every_s=0.0)).rotate
    assert not decide(replace(one, local=H3)).rotate  # H2 is live and smaller
    assert not decide(replace(one, peers=(peer(H2, None),))).rotate  # of the release before
    assert not decide(replace(one, peers=(peer(H2, OLD, (OLD, 1), (NEW, 2)),))).rotate  # one is on its way
    assert decide(replace(one, now_s=0.0, compromised=frozenset({OLD}))).rotate


def test_a_key_that_a_revoked_host_was_given_is_followed_by_another() -> None:
    one = KeyPicture(
        local=H1,
        ring=ring((NEW, 2), (OLD, 1)),
        peers=(peer(H2, OLD, (OLD, 1)),),
        compromised=frozenset({OLD}),
        leaked=frozenset({NEW}),
    )
    assert decide(one).rotate
    assert next_number(one) == 3
    better = replace(one, ring=ring((NEW, 2), (OLD, 1), (OTHER, 3)))
    assert not decide(better).rotate
    assert not decide(replace(one, local=H3)).rotate


def test_a_ring_full_of_a_liar_s_keys_gets_room_once_it_is_revoked() -> None:
    junk = [(KeyId(identifier(number)), 9) for number in range(10, 25)]
    full = ring((OLD, 1), *junk)
    one = KeyPicture(
        local=H2,
        ring=full,
        peers=(peer(H1, OLD, (OLD, 1), (NEW, 1)),),
        offered=frozenset({HeldKey(NEW, 1)}),
        compromised=frozenset({OLD, *(key_id for key_id, _ in junk)}),
    )
    assert decide(one).install == frozenset()
    assert decide(one).retire == {key_id for key_id, _ in junk}
    assert decide(replace(one, ring=full[:-1])).install == {HeldKey(NEW, 1)}


def test_a_key_is_used_once_all_live_hosts_have_it() -> None:
    one = KeyPicture(
        local=H1, ring=ring((OLD, 1), (NEW, 2)), peers=(peer(H2, OLD, (OLD, 1)), peer(H3, OLD, (OLD, 1)))
    )
    assert decide(one).use is None
    assert decide(one).give == {NEW: (H2, H3)}
    assert pending(one) == NEW
    half = replace(one, peers=(peer(H2, OLD, (OLD, 1), (NEW, 2)), peer(H3, OLD, (OLD, 1))))
    assert decide(half).use is None
    assert decide(replace(half, peers=(*half.peers[:1], replace(half.peers[1], is_live=False)))).use == NEW
    assert decide(replace(half, peers=(*half.peers[:1], peer(H3, None)))).use is None  # of the release before


def test_an_old_key_stays_for_hosts_that_are_away_unless_it_is_compromised() -> None:
    away = peer(H3, OLD, (OLD, 1), is_live=False)
    one = KeyPicture(local=H1, ring=ring((NEW, 2), (OLD, 1)), peers=(peer(H2, NEW, (OLD, 1), (NEW, 2)), away))
    assert decide(one) == KeySteps()
    assert decide(replace(one, peers=one.peers[:1])).retire == {OLD}
    assert decide(replace(one, compromised=frozenset({OLD}))).retire == {OLD}
    still = peer(H2, OLD, (OLD, 1), (NEW, 2))
    assert decide(replace(one, peers=(still,), compromised=frozenset({OLD}))).retire == frozenset()


def test_nobody_takes_up_a_key_that_is_worse_than_the_primary_or_compromised() -> None:
    one = KeyPicture(
        local=H2,
        ring=ring((NEW, 2)),
        peers=(peer(H1, NEW, (NEW, 2), (OLD, 1)),),
        offered=frozenset({HeldKey(OLD, 1), HeldKey(OTHER, 3)}),
    )
    assert decide(one).install == {HeldKey(OTHER, 3)}
    assert decide(replace(one, compromised=frozenset({OTHER}))).install == frozenset()


def test_keys_without_numbers_get_those_that_others_know() -> None:
    one = KeyPicture(local=H2, ring=ring((NEW, 0), (OLD, 0)), peers=(peer(H1, NEW, (NEW, 7), (OLD, 6)),))
    assert decide(one).renumber == {NEW: 7, OLD: 6}
    assert decide(one).use is None


def test_a_key_on_standby_is_given_and_kept_and_not_used() -> None:
    one = KeyPicture(
        local=H1,
        ring=ring((OLD, 1), (NEW, 0)),
        peers=(peer(H2, OLD, (OLD, 1)),),
        standby=frozenset({NEW}),
        now_s=WEEK,
    )
    assert decide(one) == KeySteps(give={NEW: (H2,)}, standby=frozenset({NEW}))
    assert decide(replace(one, rotate_every_s=WEEK)).rotate, "it holds up no change"
    says = replace(peer(H1, OLD, (OLD, 1), (NEW, 0)), standby=frozenset({NEW}))
    other = KeyPicture(local=H2, ring=ring((OLD, 1)), peers=(says,), offered=frozenset({HeldKey(NEW, 0)}))
    assert decide(other).install == {HeldKey(NEW, 0)}
    assert decide(replace(other, peers=(peer(H1, OLD, (OLD, 1), (NEW, 0)),))).install == frozenset()
    has = replace(other, ring=ring((OLD, 1), (NEW, 0)), offered=frozenset())
    assert decide(has).standby == {NEW}
    assert not decide(has).retire
    # An operator's word gives it a number. From then on it is any key.
    used = replace(has, peers=(replace(says, held={OLD: 1, NEW: 2}),))
    assert decide(used).renumber == {NEW: 2}
    assert decide(replace(used, ring=ring((OLD, 1), (NEW, 2)))).use == NEW


def test_an_initial_key_without_number_is_on_standby_for_nobody() -> None:
    liar = replace(peer(H2, OTHER, (OLD, 0), (OTHER, 0)), standby=frozenset({OLD, OTHER}))
    one = KeyPicture(local=H1, ring=ring((OLD, 0)), peers=(liar,), rotate_every_s=WEEK, now_s=WEEK)
    assert decide(one).standby == frozenset()
    assert decide(one).rotate


def test_keys_on_standby_leave_room_in_the_ring() -> None:
    many = frozenset(KeyId(identifier(number)) for number in range(10, 20))
    liar = replace(peer(H2, OLD, (OLD, 1), *((one, 0) for one in many)), standby=many)
    one = KeyPicture(
        local=H1, ring=ring((OLD, 1), (NEW, 0)), peers=(liar,), standby=frozenset({NEW}), offered=frozenset()
    )
    wanted = replace(one, offered=frozenset(HeldKey(key_id, 0) for key_id in many))
    assert len(decide(wanted).install) == MAX_STANDBY - 1
    assert NEW in decide(wanted).standby


def test_a_removed_key_goes_without_waiting_for_hosts_that_are_away_and_never_one_in_use() -> None:
    away = peer(H3, OLD, (OLD, 1), is_live=False)
    says = replace(peer(H2, NEW, (OLD, 1), (NEW, 2)), removed=frozenset({OLD}))
    one = KeyPicture(local=H1, ring=ring((NEW, 2), (OLD, 1)), peers=(says, away))
    assert decide(one).retire == {OLD}
    assert not decide(replace(one, peers=(replace(says, primary=OLD), away))).retire
    assert not decide(replace(one, ring=ring((OLD, 1), (NEW, 2)))).retire
    liar = replace(says, removed=frozenset({NEW, OTHER}))
    assert decide(replace(one, peers=(liar, away))) == KeySteps()
    # One that has just joined knows no numbers yet: a key that the others are about to use is not on standby.
    fresh = KeyPicture(
        local=H1, ring=ring((OLD, 0), (NEW, 0)), peers=(replace(says, primary=OLD, removed=frozenset({NEW})),)
    )
    assert not decide(fresh).retire


def test_hosts_that_give_the_best_key_different_numbers_get_a_better_one() -> None:
    # On two sides of a cut operators used OTHER, and on one side it has been replaced since.
    one = KeyPicture(
        local=H1, ring=ring((OTHER, 3), (OLD, 1)), peers=(peer(H2, NEW, (OTHER, 2), (NEW, 3), (OLD, 1)),)
    )
    assert decide(one).rotate
    assert next_number(one) == 4
    assert not decide(replace(one, may_settle=False)).rotate
    assert not decide(replace(one, local=H3)).rotate
    same = peer(H2, OTHER, (OTHER, 2), (OLD, 1))
    assert not decide(replace(one, peers=(same,))).rotate, "all seal with it"
    liar = peer(H2, OLD, (OLD, 9))
    assert decide(KeyPicture(local=H1, ring=ring((NEW, 2), (OLD, 1)), peers=(liar,))).rotate


def test_an_old_key_stays_for_a_host_that_is_away_and_has_the_new_one_on_standby() -> None:
    away = replace(peer(H3, OLD, (OLD, 1), (NEW, 0), is_live=False), standby=frozenset({NEW}))
    one = KeyPicture(local=H1, ring=ring((NEW, 2), (OLD, 1)), peers=(peer(H2, NEW, (OLD, 1), (NEW, 2)), away))
    assert not decide(one).retire
    assert waiting_for(one, OLD) == (H3,)
    back = replace(away, held={OLD: 1, NEW: 2}, standby=frozenset())
    assert decide(replace(one, peers=(one.peers[0], back))).retire == {OLD}


def test_a_removed_key_is_said_while_a_host_has_it() -> None:
    one = KeyPicture(
        local=H1,
        ring=ring((NEW, 2)),
        peers=(peer(H2, NEW, (NEW, 2)), peer(H3, OLD, (OLD, 1), is_live=False)),
        removed=frozenset({OLD}),
    )
    assert decide(one).removed == {OLD}
    assert decide(replace(one, peers=one.peers[:1])).removed == frozenset()


# -- a cluster under cuts, restarts, restores and several rotations at once ----------------------------------------


@dataclass
class Machine:
    """A host: its disk, what it holds of others' records, and whether it runs."""

    host: HostId
    ring: tuple[RingKey, ...]
    records: dict[HostId, tuple[int, PeerKeys]] = field(default_factory=dict)
    version: int = 0
    is_up: bool = True
    side: int = 0
    backup: tuple[RingKey, ...] = ()
    offers: dict[HostId, set[HeldKey]] = field(default_factory=dict)
    standby: frozenset[KeyId] = frozenset()
    removed: frozenset[KeyId] = frozenset()

    def accepts(self, key_id: KeyId) -> bool:
        return any(one.key_id == key_id for one in self.ring)

    def publish(self, retired: frozenset[KeyId] = frozenset()) -> None:
        held = {one.key_id: one.number for one in self.ring if one.key_id not in retired}
        standby = self.standby & held.keys()
        said = PeerKeys(self.host, True, self.ring[0].key_id, held, frozenset(), standby, self.removed)
        known = self.records.get(self.host)
        if known is None or known[1] != said:
            self.version += 1
            self.records[self.host] = (self.version, said)


class World:
    def __init__(self, seed: int, size: int = 5, *, has_operator: bool = False) -> None:
        self.rng = random.Random(seed)
        self.has_operator = has_operator
        self.installed = 0
        """No more than fit: hosts of two sides of a cut may have filled the places with different ones."""
        hosts = [HostId(identifier(number)) for number in range(1, size + 1)]
        self.machines = {host: Machine(host, ring((OLD, 1)), backup=ring((OLD, 1))) for host in hosts}
        self.evicted: set[HostId] = set()
        self.compromised: frozenset[KeyId] = frozenset()
        self.made_after: set[KeyId] = set()
        """Keys made after the eviction."""
        for one in self.machines.values():
            one.publish()
        for _ in range(3):
            self.spread()

    def up(self) -> list[Machine]:
        return [one for one in self.machines.values() if one.is_up and one.host not in self.evicted]

    def are_connected(self, one: Machine, other: Machine) -> bool:
        return one.is_up and other.is_up and one.side == other.side

    def understand(self, one: Machine, other: Machine) -> bool:
        return one.accepts(other.ring[0].key_id) and other.accepts(one.ring[0].key_id)

    def is_live(self, one: Machine, other: Machine) -> bool:
        """As the membership of `one` says: they hear each other, and its record of this start has come."""
        said = one.records.get(other.host)
        return (
            self.are_connected(one, other)
            and self.understand(one, other)
            and said is not None
            and said[0] == other.version
        )

    def tell(self, sender: Machine, target: Machine) -> None:
        if not self.are_connected(sender, target) or not target.accepts(sender.ring[0].key_id):
            return
        for host, said in sender.records.items():
            if said[0] > target.records.get(host, (0,))[0] and host != target.host:
                target.records[host] = said
        if target.host in sender.offers and target.host not in self.evicted:
            for offer in sender.offers.pop(target.host):
                target.offers.setdefault(target.host, set()).add(offer)

    def spread(self) -> None:
        machines = list(self.machines.values())
        for sender in machines:
            for target in machines:
                if sender is not target:
                    self.tell(sender, target)

    def meet(self, one: Machine, other: Machine) -> None:
        """Return by identity: those that do not understand each other show each other their keys."""
        if {one.host, other.host} & self.evicted or not self.are_connected(one, other):
            return
        if not self.understand(one, other):
            for taker, giver in ((one, other), (other, one)):
                new = {HeldKey(key.key_id, key.number) for key in giver.ring if not taker.accepts(key.key_id)}
                taker.ring += tuple(
                    RingKey(*key, 0.0) for key in sorted(new) if key[0] not in self.compromised
                )
                taker.publish()

    def picture(self, one: Machine) -> KeyPicture:
        peers = []
        for host, other in self.machines.items():
            if host == one.host or host in self.evicted:
                continue
            said = one.records.get(host, (0, PeerKeys(host, False)))[1]
            # One that is heard, but not up to date, holds up what others do: its record may be of an earlier start.
            is_live = self.are_connected(one, other) and self.understand(one, other)
            known = said if self.is_live(one, other) or not is_live else PeerKeys(host, True)
            peers.append(replace(known, is_live=is_live))
        return KeyPicture(
            local=one.host,
            ring=one.ring,
            peers=tuple(peers),
            standby=one.standby,
            removed=one.removed,
            offered=frozenset(one.offers.get(one.host, set())),
            compromised=self.compromised,
        )

    def make(self, one: Machine, picture: KeyPicture) -> None:
        key_id = KeyId(identifier(self.rng.getrandbits(64)))
        if self.evicted:
            self.made_after.add(key_id)
        one.ring += (RingKey(key_id, next_number(picture), 0.0),)

    def step(self, one: Machine) -> bool:
        """Let a host act on what it sees. True: it did something."""
        if not one.is_up or one.host in self.evicted:
            return False
        picture = self.picture(one)
        steps = decide(picture)
        before, version = one.ring, one.version
        one.ring += tuple(RingKey(*key, 0.0) for key in sorted(steps.install))
        one.offers.pop(one.host, None)
        if steps.use is not None:
            for other in self.up():
                if other is not one and self.is_live(one, other):
                    assert other.accepts(steps.use), f"{one.host} uses what {other.host} lacks"
            one.ring = tuple(sorted(one.ring, key=lambda key: key.key_id != steps.use))
        else:
            one.ring = tuple(key for key in one.ring if key.key_id not in steps.retire)
        one.ring = tuple(key._replace(number=steps.renumber.get(key.key_id, key.number)) for key in one.ring)
        one.standby, one.removed = steps.standby, steps.removed
        if steps.rotate:
            self.make(one, picture)
        for key_id, hosts in steps.give.items():
            number = next(key.number for key in one.ring if key.key_id == key_id)
            for host in hosts:
                assert host not in self.evicted
                one.offers.setdefault(host, set()).add(HeldKey(key_id, number))
        one.publish()
        return one.ring != before or bool(steps.give) or one.version != version

    def type_in(self, one: Machine) -> None:
        """Let an operator install, use or remove a key."""
        picture = self.picture(one)
        standby = sorted(standby_keys(picture) & {key.key_id for key in one.ring})
        others = [key.key_id for key in one.ring[1:] if key.key_id != pending(picture)]
        match self.rng.randrange(3):
            case 0 if len(one.ring) < 8 and self.installed < MAX_STANDBY and not self.evicted:
                self.installed += 1
                key_id = KeyId(identifier(self.rng.getrandbits(64)))
                one.ring += (RingKey(key_id, 0, 0.0),)
                one.standby |= {key_id}
            # Not one that is being removed elsewhere, nor the other way round: that a key goes half a minute after
            # that was announced is not simulated.
            case 1 if (
                standby
                and pending(picture) is None
                and not lacking(picture, standby[0])
                and not any(standby[0] in other.removed for other in self.machines.values())
            ):
                number = next_number(picture)
                one.ring = tuple(
                    key._replace(number=number if key.key_id == standby[0] else key.number)
                    for key in one.ring
                )
            case 2 if others:
                chosen = self.rng.choice(others)
                is_used = any(
                    key.key_id == chosen and key.number
                    for other in self.machines.values()
                    for key in other.ring
                )
                is_in_use = any(peer.primary == chosen for peer in picture.peers if peer.is_live)
                if not is_in_use and not (chosen in standby and is_used):
                    one.removed |= {chosen}
        one.publish()

    def disturb(self) -> None:
        one = self.rng.choice(list(self.machines.values()))
        match self.rng.randrange(9 + self.has_operator):
            case 9 if one.is_up and one.host not in self.evicted:
                self.type_in(one)
            case 0:
                one.is_up = not one.is_up
            case 1:
                one.side = self.rng.randrange(2)
            case 2:
                one.backup = one.ring
            case 3 if not self.rng.randrange(3):  # restored: at its start it publishes what it has
                one.ring = one.backup
                one.publish()
            case 4 if one.is_up and one.host not in self.evicted and len(one.ring) < 8:
                self.make(one, self.picture(one))
                one.publish()
            case 5 if not self.evicted and not self.rng.randrange(8):
                self.evicted = {one.host}
                self.compromised = frozenset(
                    key.key_id for other in self.machines.values() for key in (*other.ring, *other.backup)
                )
            case _:
                for other in self.machines.values():
                    self.meet(one, other)

    def settle(self) -> None:
        for one in self.machines.values():
            one.is_up, one.side = True, 0
        for _ in range(60):
            machines = list(self.machines.values())
            for one in machines:
                for other in machines:
                    self.meet(one, other)
            self.spread()
            acted = [self.step(one) for one in machines]
            if not any(acted):
                return
        pytest.fail("the hosts never come to rest")


@pytest.mark.parametrize("seed", range(600))
def test_hosts_end_with_one_key_and_lose_nobody(seed: int) -> None:
    print(f"seed {seed}")
    world = World(seed, has_operator=seed >= 400)
    for _ in range(200):
        if world.rng.random() < 0.25:
            world.disturb()
        one, other = world.rng.sample(list(world.machines.values()), 2)
        world.tell(one, other)
        world.step(one)
        evicted = [world.machines[host] for host in world.evicted]
        assert not any(key.key_id in world.made_after for each in evicted for key in each.ring)
    world.settle()
    left = world.up()
    assert len({one.ring[0].key_id for one in left}) == 1
    if world.has_operator:
        standby = {frozenset(key.key_id for key in one.ring[1:]) for one in left}
        assert len(standby) == 1, "hosts differ in what is on standby"
        assert standby == {left[0].standby}
    else:
        assert {len(one.ring) for one in left} == {1}
    if world.evicted:
        assert left[0].ring[0].key_id in world.made_after
