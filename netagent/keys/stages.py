"""What a host does about the cluster's ring keys, from what it sees of the others. Pure.

Each host publishes which keys it accepts and which one it seals with. From these records each host decides alone, and
again whenever they change:

    standby   keep a key that an operator installed, and give it to all; none is used before an operator says so
    rotate    make a new key: the live host with the smallest id does, when its primary is old or compromised
    give      seal a key for live hosts that lack it: the live host with the smallest id of those that have it
    install   take a key that another host gives
    use       seal with the best key that all live hosts accept
    retire    stop accepting a key once no host seals with it, and every host that is away has met the new one

An operator's commands are the same steps: `keys install` makes a key on standby, `keys use` gives it the highest
number, and with that it is a key like any other; `keys remove` says that no host that is away needs a key.

No step needs the host that took the one before: any host that has a key gives it. Of two keys the one with the higher
number is better, then the one with the higher id; so hosts that rotate at once, or on both sides of a partition, end
with one primary. Nobody goes back to a worse key, except from a compromised one.

A compromised key is the worst of all. It goes as soon as the live hosts do without it; hosts that are away return by
their identity (netgossip.join.readmission), as does each host that has slept through more than one rotation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from netagent.model.ids import HostId, KeyId
from netagent.model.ring_key import MAX_KEY_NUMBER, MAX_RING_KEYS, MAX_STANDBY, HeldKey


class RingKey(NamedTuple):
    """A key of this host's ring."""

    key_id: KeyId
    number: int
    since_s: float
    """When this host got it, by its own clock."""


@dataclass(frozen=True, slots=True)
class PeerKeys:
    """What another host's records say of its keys. `held` is empty, and `primary` None, while it has published none:
    a host of the release before, or one that has just come."""

    host_id: HostId
    is_live: bool
    primary: KeyId | None = None
    held: Mapping[KeyId, int] = field(default_factory=dict)
    """Number by key; 0 also for one whose number is too high to be believed."""
    overstated: frozenset[KeyId] = frozenset()
    """Keys whose numbers are."""
    standby: frozenset[KeyId] = frozenset()
    removed: frozenset[KeyId] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPicture:
    """All that a host decides from."""

    local: HostId
    ring: tuple[RingKey, ...]
    """This host's keys; it seals with the first."""
    peers: tuple[PeerKeys, ...]
    """The other hosts of the cluster, without those that are evicted, revoked, or have left."""
    standby: frozenset[KeyId] = frozenset()
    """Keys that this host says are on standby."""
    removed: frozenset[KeyId] = frozenset()
    """Keys that an operator removed on this host."""
    offered: frozenset[HeldKey] = frozenset()
    """Keys that others give to this host and that it lacks."""
    given: Mapping[KeyId, frozenset[HostId]] = field(default_factory=dict)
    """To whom other live hosts, or this one, give which key."""
    compromised: frozenset[KeyId] = frozenset()
    leaked: frozenset[KeyId] = frozenset()
    """Keys that a revoked host was given after the words that revoked it were written, as far as this host saw."""
    may_settle: bool = True
    """False: this host has just made a key because hosts differ, and waits what comes of it."""
    rotate_every_s: float = 0.0
    """0: never by itself."""
    now_s: float = 0.0


@dataclass(frozen=True, slots=True)
class KeySteps:
    """What to do now; all empty when all is as it should be."""

    install: frozenset[HeldKey] = frozenset()
    use: KeyId | None = None
    """None: the primary stays."""
    retire: frozenset[KeyId] = frozenset()
    """Keys to stop accepting, announced before."""
    give: Mapping[KeyId, tuple[HostId, ...]] = field(default_factory=dict)
    renumber: Mapping[KeyId, int] = field(default_factory=dict)
    """Numbers of keys that came without one, by a join or a file of the release before, and of those on standby that
    an operator wants to be used."""
    standby: frozenset[KeyId] = frozenset()
    """Keys to say on standby, those that this host accepts after these steps."""
    removed: frozenset[KeyId] = frozenset()
    """Keys to say removed."""
    rotate: bool = False


class KeyRank(NamedTuple):
    """The order of keys; the highest is the best."""

    is_sound: bool
    number: int
    key_id: KeyId


def decide(picture: KeyPicture) -> KeySteps:
    """Return what this host should do now."""
    view = _Ranks(picture)
    return KeySteps(
        install=view.to_install(),
        use=view.to_use(),
        retire=view.to_retire(),
        give=view.to_give(),
        renumber=view.unnumbered(),
        standby=view.standby,
        removed=view.still_removed(),
        rotate=view.should_rotate(),
    )


def next_number(picture: KeyPicture) -> int:
    """Return the number of a new key: above all that count, so that it becomes the primary."""
    numbers = [one.number for one in picture.ring if one.key_id not in picture.compromised]
    for peer in picture.peers:
        numbers += [number for key_id, number in peer.held.items() if key_id not in picture.compromised]
    return min(max(numbers, default=0) + 1, MAX_KEY_NUMBER)


def without_records(picture: KeyPicture) -> tuple[HostId, ...]:
    """Return the live hosts that publish nothing of their keys, which hold up rotations."""
    return tuple(peer.host_id for peer in picture.peers if peer.is_live and peer.primary is None)


def lacking(picture: KeyPicture, key_id: KeyId, *, live: bool = True) -> tuple[HostId, ...]:
    """Return the other hosts, live ones or those that are away, that do not accept a key as far as they say."""
    return tuple(peer.host_id for peer in picture.peers if peer.is_live is live and key_id not in peer.held)


def not_sealing(picture: KeyPicture, key_id: KeyId) -> tuple[HostId, ...]:
    """Return the live hosts that seal with another key as far as they say."""
    return tuple(peer.host_id for peer in picture.peers if peer.is_live and peer.primary != key_id)


def knows_primary(picture: KeyPicture, peer: PeerKeys) -> bool:
    """True for a host that takes up this host's primary by itself: it has it, and not on standby."""
    primary = picture.ring[0]
    return primary.key_id in peer.held and (peer.held[primary.key_id] > 0 or not primary.number)


def waiting_for(picture: KeyPicture, key_id: KeyId) -> tuple[HostId, ...]:
    """Return the hosts that are away, accept a key and not the one in use, and so could not be understood without."""
    return tuple(
        peer.host_id
        for peer in picture.peers
        if not peer.is_live and key_id in peer.held and not knows_primary(picture, peer)
        if key_id not in peer.standby
    )


def standby_keys(picture: KeyPicture) -> frozenset[KeyId]:
    """Return the keys on standby, on this host or another live one."""
    return _Ranks(picture).standby


def pending(picture: KeyPicture) -> KeyId | None:
    """Return the best key, while it is not this host's primary or not that of all live hosts; None: no rotation is
    under way."""
    ranks = _Ranks(picture)
    best = max(ranks.known(), default=None)
    if best is None or not best.number:
        return None
    primaries = {picture.ring[0].key_id, *(one.primary for one in ranks.live if one.primary is not None)}
    return None if primaries == {best.key_id} else best.key_id


class _Ranks:
    """The rules, over one picture."""

    def __init__(self, picture: KeyPicture) -> None:
        self._picture = picture
        self._held = {one.key_id: one for one in picture.ring}
        self.live = tuple(one for one in picture.peers if one.is_live)
        self._primary = self._rank(picture.ring[0].key_id, picture.ring[0].number)
        self._removed = picture.removed.union(*(one.removed for one in picture.peers))
        self.standby = self._standby()

    def _standby(self) -> frozenset[KeyId]:
        """Return the keys that are on standby, as this host or a live one says, and that no operator has removed."""
        in_use = {self._primary.key_id, *(one.primary for one in self.live)}
        out = in_use | self._removed | self._picture.compromised

        def is_on_standby(key_id: KeyId) -> bool:
            # One with a number is about to be used: a host that was away has not heard of that yet.
            return key_id not in out and not self._number(key_id)

        own = {one for one in self._picture.standby if one in self._held and is_on_standby(one)}
        said = {one for peer in self.live for one in peer.standby & peer.held.keys() if is_on_standby(one)}
        # The own ones first: who fills the places later must not displace them.
        more = sorted(said - own, key=lambda one: (one not in self._held, one))
        return frozenset([*own, *more[: max(MAX_STANDBY - len(own), 0)]])

    def _number(self, key_id: KeyId) -> int:
        own = self._held.get(key_id)
        if own is not None and own.number:
            return own.number
        return max((peer.held.get(key_id, 0) for peer in self._picture.peers), default=0)

    def still_removed(self) -> frozenset[KeyId]:
        """Return the keys removed on this host that a host still has; one that is away hears of it when it is
        back."""
        held = self._held.keys() | {key_id for peer in self._picture.peers for key_id in peer.held}
        return self._picture.removed & held

    def _rank(self, key_id: KeyId, number: int) -> KeyRank:
        return KeyRank(key_id not in self._picture.compromised, number, key_id)

    def known(self) -> Iterator[KeyRank]:
        """Yield the rank of each key that this host or a live one accepts, but for those on standby."""
        for one in self._picture.ring:
            if one.key_id not in self.standby:
                yield self._rank(one.key_id, one.number)
        for peer in self.live:
            for key_id, number in peer.held.items():
                if key_id not in self.standby:
                    yield self._rank(key_id, number)

    def _is_useful(self, key_id: KeyId, number: int) -> bool:
        """True for a key that each live host needs: a live host seals with it, or it is better than ours."""
        if key_id in self._picture.compromised:
            return False
        in_use = any(peer.primary == key_id for peer in self.live)
        return in_use or (number > 0 and self._rank(key_id, number) > self._primary)

    def to_install(self) -> frozenset[HeldKey]:
        wanted = [
            one
            for one in self._picture.offered
            if one.key_id not in self._held
            # It may have been given on standby, and be in use since.
            and (
                one.key_id in self.standby
                or self._is_useful(one.key_id, one.number or self._number(one.key_id))
            )
        ]
        # The best first: a host that gives many keys must not keep out the one that counts.
        wanted.sort(key=lambda one: self._rank(*one), reverse=True)
        return frozenset(wanted[: max(MAX_RING_KEYS - len(self._held), 0)])

    def to_use(self) -> KeyId | None:
        if any(peer.primary is None for peer in self.live):
            return None
        everywhere = (
            self._rank(one.key_id, one.number)
            for one in self._picture.ring
            if all(one.key_id in peer.held for peer in self.live)
        )
        # A key whose place no host knows is taken up only to get away from a compromised one.
        best = max(
            (one for one in everywhere if one.number or not self._primary.is_sound), default=self._primary
        )
        return best.key_id if best > self._primary else None

    def to_retire(self) -> frozenset[KeyId]:
        if any(peer.primary is None for peer in self.live):
            return frozenset()
        return frozenset(one.key_id for one in self._picture.ring if self._is_done(one))

    def _is_done(self, key: RingKey) -> bool:
        primary = self._primary.key_id
        if key.key_id == primary or key.key_id in self.standby:
            return False
        if key.key_id in self._picture.compromised:
            # Also before a better one is in use: a ring that a liar has filled must have room for that.
            return all(peer.primary != key.key_id for peer in self.live)
        if key.key_id in self._removed and not self._number(key.key_id):
            return all(peer.primary != key.key_id for peer in self.live)  # it was on standby
        if self._rank(key.key_id, key.number) >= self._primary:
            return False  # about to be the primary
        if key.key_id in self._removed:
            # Hosts that are away return by their identity.
            return all(peer.primary == primary for peer in self.live)
        # A host that is away may still seal with it, and knows no newer one that it could be understood by.
        return all(peer.primary == primary for peer in self.live) and all(
            knows_primary(self._picture, peer) for peer in self._picture.peers if not peer.is_live
        )

    def to_give(self) -> Mapping[KeyId, tuple[HostId, ...]]:
        giving = {}
        for key in self._picture.ring:
            in_use = key.key_id == self._primary.key_id and key.number > 0
            is_useful = in_use or self._is_useful(key.key_id, key.number)
            if not is_useful and key.key_id not in self.standby:
                continue
            if key.key_id in self._picture.compromised or self._has_earlier_giver(key.key_id):
                continue
            given = self._picture.given.get(key.key_id, frozenset())
            hosts = [
                peer.host_id
                for peer in self.live
                if peer.primary is not None and key.key_id not in peer.held and peer.host_id not in given
            ]
            if hosts:
                giving[key.key_id] = tuple(sorted(hosts))
        return giving

    def _has_earlier_giver(self, key_id: KeyId) -> bool:
        return any(key_id in peer.held and peer.host_id < self._picture.local for peer in self.live)

    def unnumbered(self) -> Mapping[KeyId, int]:
        found = {}
        for one in self._picture.ring:
            said = max((peer.held.get(one.key_id, 0) for peer in self._picture.peers), default=0)
            if one.number == 0 and said:
                found[one.key_id] = said
        return found

    def _is_disputed(self, key_id: KeyId) -> bool:
        """True if live hosts give the best key different numbers, and do not seal with the same one: each may wait
        for the other for ever. A better key ends it."""
        holders = [peer.held for peer in self.live] + [{one.key_id: one.number for one in self._picture.ring}]
        numbers = {held[key_id] for held in holders if held.get(key_id)}
        return len(numbers) > 1 and any(peer.primary != self._primary.key_id for peer in self.live)

    def should_rotate(self) -> bool:
        if any(peer.host_id < self._picture.local for peer in self.live):
            return False
        if len(self._picture.ring) >= MAX_RING_KEYS:
            return False
        best = max(self.known())
        if best.key_id in self._picture.leaked:
            return True  # hosts differ in what they saw, so it is no compromised key for them: a better one ends it
        if self._picture.may_settle and self._is_disputed(best.key_id):
            return True
        if best.is_sound and best.number and best > self._primary:
            return False  # a better one is on its way
        if not self._primary.is_sound:
            return True
        every_s, age_s = self._picture.rotate_every_s, self._picture.now_s - self._picture.ring[0].since_s
        return 0 < every_s <= age_s and not any(peer.primary is None for peer in self.live)
