"""Keeps this host's ring: takes the steps that `stages` decides, and goes to others where no key is shared.

A key is in the file before this host says that it has it, and this host has said that it retires a key some time
before it stops accepting it. A host that no other understands, or that understands no other, asks members that it
knows for their keys (netgossip.join.readmission).
"""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import trio

from netagent.errors import NetagentError, RefusedError
from netagent.events.channel import event
from netagent.events.kinds import EventKind
from netagent.keys.picture import is_wanted, known_keys, others, picture_of, ring_record, sealed_records
from netagent.keys.ring_store import RingStore
from netagent.keys.sealing import ExchangeKey
from netagent.keys.stages import (
    KeyPicture,
    KeySteps,
    decide,
    lacking,
    next_number,
    pending,
    standby_keys,
    waiting_for,
)
from netagent.model.ids import ClusterId, HostId, KeyId
from netagent.model.records import MAX_KEY_IDS
from netagent.model.ring_key import (
    MAX_ADMITTED,
    MAX_NUMBER_STEP,
    MAX_PARTS,
    MAX_RING_KEYS,
    MAX_SEALED,
    MAX_STANDBY,
    HeldKey,
    RingKeysRecord,
    SealedKeysRecord,
)
from netagent.periodic_task import PeriodicTask
from netagent.registry.publish import Publisher
from netagent.registry.state_store import StateStore
from netagent.registry.view import RegistryView, compromised_keys
from netagent.registry.views import short_id
from netgossip.join.driver import EntryError, return_to
from netgossip.join.identity import Identity
from netgossip.join.readmission import NumberedKey, PeerRing, ReturnerConversation
from netgossip.types import Address, NodeId

LOOK_S = 1.0
"""How often the others' records are looked at."""
RETRY_S = 5.0
RETIRE_S = 30.0
"""For so long a key is accepted after its retirement was announced: frames that were sealed with it are on their
way, and hosts that have not heard of it yet."""
CLEAN_S = 60.0
"""For so long after the last compromised key went, hosts may be shown as live that were heard under it only."""
NEW_KEY_BYTES = 32
RETURN_S = 3.0
"""First pause before a member is asked for its keys: the membership itself needs a few seconds after a start."""
CATCH_UP_S = 15.0
"""For so long after its start, and after it got keys by a return, this host answers no returns: it may not have heard
yet of the revocation of the host that asks."""
VOUCH_S = 600.0
"""For so long this host vouches for one that it has admitted. Members note that within seconds."""
MAX_RETURN_S = 60.0
"""Longest pause between two of those: after a partition heals, the hosts of both sides hear each other within it."""
MAX_ALONE_S = 5.0
"""Longest pause while this host hears no other. It may have been revoked meanwhile; once the others have dropped its
key, only a return tells it so."""
ASKED_AT_ONCE = 3
"""Hosts that are asked for their keys at the same time; beyond it: others are asked the next time. One that has no
power holds the next question up by 10 s."""
OPENED_LIMIT = 64
"""Bound of sealed keys tried in one step; beyond it: further ones wait for the next. A member may write thousands."""
OPENED_OF_ONE = 4
"""Bound of sealed keys of one host tried in one step; beyond it: further ones wait for the next. Those of a host that
writes thousands must not keep out the one that counts."""
SETTLE_PAUSE_S = 60.0
"""Between two keys that this host makes because a revoked host was given one, or because hosts differ in the number
of one: a member can say so of each."""
MAX_LEAKED = 64
"""Bound of keys noted as given to one revoked host; beyond it: further ones are not. A member can name any."""

logger = logging.getLogger("netagent.keys")


@dataclass(slots=True, kw_only=True)
class RingKeeper:
    """One for each run of the cluster."""

    live: StateStore
    publisher: Publisher
    store: RingStore
    identity: Identity
    is_signer: Callable[[HostId], bool]
    record_address: Callable[[HostId], Address | None]
    rotate_every_s: Callable[[], float]
    refused: Callable[[str], None]
    """Gets the reason why a member does not let this host return: it may be a refusal of a revoked host."""
    compromised: Callable[[RegistryView], frozenset[KeyId]] = compromised_keys
    """Keys that a revoked host may know."""
    _exchange: ExchangeKey = field(init=False)
    _retiring: dict[KeyId, float] = field(default_factory=dict)
    """Keys that are announced as not accepted, and when they go."""
    _met_of: object = None
    """The hosts of the view that were added to `_met` last."""
    _met: set[HostId] = field(default_factory=set)
    """Hosts known before a key was compromised, or understood under a key that is not: others may be anybody who has
    that key, whatever their records say that they have."""
    _knows_since: float = field(init=False)
    """From when on the view of this host's first seconds in the cluster, which may lack members, is no reason to
    exclude the others."""
    _vouched_of: tuple[object, object] = (None, None)
    """The records and hosts of the view that were looked through last for hosts that members vouch for."""
    _admitted: dict[HostId, float] = field(default_factory=dict)
    """Hosts that redeemed an invitation of this host, and until when it vouches for them."""
    _has_admitted: bool = False
    """The record does not name the last of them yet."""
    _clean_at: float = float("-inf")
    """From when on who is understood has a key that is not compromised."""
    _opened: dict[HeldKey, bytes] = field(default_factory=dict)
    """Keys that others give to this host and that it lacks."""
    _tried: set[bytes] = field(default_factory=set)
    """Sealed keys that were tried, by their ephemeral keys."""
    _has_more: bool = False
    """Sealed keys are there that the last step did not try."""
    _shown: dict[HostId, PeerRing] = field(default_factory=dict)
    """Rings that hosts of the cluster have shown since the last step."""
    _known_by: dict[HostId, frozenset[KeyId]] = field(default_factory=dict)
    """Keys that each host may know. The records that say so of a revoked one are dropped."""
    _settle_at: float = float("-inf")
    """When this host may make a key again because one was given to a revoked host, or because hosts differ."""
    _new_standby: set[KeyId] = field(default_factory=set)
    """Keys that an operator installed here, until the record says so."""
    _new_removed: set[KeyId] = field(default_factory=set)
    """Keys that an operator removed here, until the record says so."""
    _answers_at: float = float("inf")
    """From when on this host answers returns."""
    _task: PeriodicTask = field(default_factory=partial(PeriodicTask, LOOK_S))
    _looked_at: float = 0.0
    _seen: tuple[object, ...] = ()
    """What the last step looked at."""

    def __post_init__(self) -> None:
        local, cluster_id = HostId(self.identity.node_id), ClusterId(self.store.keys.cluster_id)
        self._exchange = ExchangeKey(local, cluster_id, os.urandom)
        # Also of a start while a key is compromised: hosts that excluded each other would each go their own way.
        self._met.update(self.live.view.hosts)
        self._knows_since = float("inf") if self._met <= {local} else float("-inf")

    # -- what others ask ---------------------------------------------------------------------------------------

    def is_known(self, node_id: NodeId) -> bool:
        """True for a host whose keys this host takes up, and which may have this host's."""
        view = self.live.view
        return self._is_known(view, HostId(node_id), self._excluded(view))

    def _is_known(self, view: RegistryView, host_id: HostId, excluded: frozenset[HostId]) -> bool:
        return (
            host_id in view.hosts
            and host_id not in view.evicted
            and host_id not in excluded
            and view.hosts[host_id].record is not None
            and self.is_signer(host_id)
        )

    def may_return(self, node_id: NodeId) -> bool:
        """True for a host that gets the ring by its identity alone: a known one, and one that was evicted because it
        was silent for long. It hears of that then, and begins anew."""
        if not self.is_caught_up:
            return False
        view, host_id = self.live.view, HostId(node_id)
        if host_id in view.evicted:
            return host_id not in view.revoked and self.is_signer(host_id)
        return self.is_known(node_id)

    def note_admitted(self, node_id: NodeId) -> None:
        """Note a host that has redeemed an invitation of this host: the others learn that it is no stranger."""
        self._admitted.pop(HostId(node_id), None)
        self._admitted[HostId(node_id)] = trio.current_time() + VOUCH_S
        for one in list(self._admitted)[:-MAX_ADMITTED]:
            del self._admitted[one]
        self._has_admitted = True
        self._task.wake()

    def keys_for_newcomers(self) -> tuple[bytes, ...]:
        """Return the keys that a host gets which redeems an invitation, the primary first; empty while this host
        seals with a key that a revoked host may know: the newcomer would be taken for one that has it from there."""
        compromised = self.compromised(self.live.view)
        if self.store.ring[0].key_id in compromised:
            return ()
        return tuple(one for one in self.store.keys.keys if self.store.id_of(one) not in compromised)

    @property
    def is_caught_up(self) -> bool:
        """False while this host may not have heard yet what was decided in its absence."""
        return trio.current_time() >= self._answers_at

    def note_returned(self, peer: PeerRing) -> None:
        """Note the keys that another host has shown: by its return to us, or ours to it. The next step takes them."""
        # Not here: gossip calls this within a stream, and must not wait for the disk nor learn of its errors.
        self._shown[HostId(peer.node_id)] = peer
        self._task.wake()

    def _take_shown(self, peer: PeerRing) -> None:
        view = self.live.view
        compromised, primary = self.compromised(view), self.store.ring[0]
        highest = max(one.number for one in self.store.ring)
        unnumbered = {one.key_id for one in self.store.ring if not one.number}
        wanted = []
        for place, one in enumerate(peer.keys):
            key_id = self.store.id_of(one.key)
            if key_id in unnumbered and 0 < one.number <= highest + MAX_NUMBER_STEP:
                self.store.renumber(key_id, one.number)  # it was put to use while this host was away
            # What it seals with, to understand it, and what is better than ours.
            is_better = (one.number, key_id) > (primary.number, primary.key_id) and one.number > 0
            if key_id not in compromised and (is_better or place == 0):
                is_believed = one.number <= highest + MAX_NUMBER_STEP
                wanted.append(one if is_believed else NumberedKey(one.key, 0))
        name = self._name(HostId(peer.node_id))
        for added in self.store.add(*wanted):
            self._answers_at = trio.current_time() + CATCH_UP_S
            logger.info(
                "got the ring key %s from %s, which shared none with this host",
                short_id(added),
                name,
                extra=event(EventKind.MEMBER, name),
            )

    # -- commands ----------------------------------------------------------------------------------------------

    async def rotate(self) -> KeyId:
        """Make a new key, which becomes the primary of all hosts; return its id. RefusedError while one is being
        made already."""
        picture = self.picture()
        _refuse_while_changing(picture)
        made = self._make(picture)
        await self._step()
        return made

    async def install(self, key: bytes | None) -> tuple[KeyId, bool]:
        """Give a key, a new one if None, to all hosts, and let none use it; return its id, and False if this host has
        it already."""
        key = key or os.urandom(NEW_KEY_BYTES)
        picture, key_id = self.picture(), self.store.id_of(key)
        if self.store.key_of(key_id) is not None and key_id not in self._retiring:
            return key_id, False
        reason = "this host is about to drop it" if key_id in self._retiring else _no_standby(picture, key_id)
        if reason:
            raise RefusedError(
                f"the ring key {short_id(key_id)} cannot be installed: {reason}",
                code="key-not-installed",
                thing=short_id(key_id),
                hint="`netagent keys list` shows the keys; `netagent keys remove` makes room",
            )
        if not self.store.add(NumberedKey(key, 0)):
            raise _ring_is_full()
        self._new_standby.add(key_id)
        self._tell("installed the ring key %s; no host uses it before `netagent keys use`", key_id)
        await self._step()
        return key_id, True

    async def use(self, key_id: KeyId) -> bool:
        """Let all hosts seal with a key that all live ones accept. False: they do, or are about to. RefusedError
        names hosts that do not accept it."""
        picture = self.picture()
        primary, under_way = picture.ring[0], pending(picture)
        if key_id == under_way or (key_id == primary.key_id and under_way is None):
            return False
        own = next((one for one in picture.ring if one.key_id == key_id), None)
        lack = lacking(picture, key_id)
        if own is None or lack:
            names = [*(["this host"] if own is None else []), *sorted(map(self._name, lack))]
            raise RefusedError(
                f"the ring key {short_id(key_id)} is not on all live hosts: {', '.join(names)} "
                f"{'lacks' if len(names) == 1 else 'lack'} it",
                code="key-not-everywhere",
                thing=short_id(key_id),
                hint="hosts get it within seconds; those that do not are named by `netagent keys list`",
            )
        _refuse_while_changing(picture)
        if key_id not in standby_keys(picture):
            raise RefusedError(
                f"the ring key {short_id(key_id)} is older than the one in use, or a revoked host may know it",
                code="key-superseded",
                thing=short_id(key_id),
                hint="`netagent keys install` makes a new one",
            )
        # With a number it is a key like any other: each host takes it up by the rules of a rotation.
        self.store.renumber(key_id, next_number(picture))
        self._tell("the ring key %s is to be used by all hosts", key_id)
        await self._step()
        return True

    async def remove(self, key_id: KeyId, *, force: bool = False) -> bool:
        """Let no host accept a key any more. False: that was said already. RefusedError while a host seals with it,
        or, without `force`, while hosts that are away know no better one."""
        picture = self.picture()
        in_use = key_id == picture.ring[0].key_id or key_id == pending(picture)
        sealing = [one.host_id for one in picture.peers if one.is_live and one.primary == key_id]
        if in_use or sealing:
            raise RefusedError(
                f"the ring key {short_id(key_id)} is in use or about to be",
                code="key-in-use",
                thing=short_id(key_id),
                hint="`netagent keys rotate --wait` puts another one in its place",
            )
        if key_id in picture.removed or key_id in self._new_removed:
            return False
        names = sorted(map(self._name, waiting_for(picture, key_id)))
        if names and not force:
            raise RefusedError(
                f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} away, and "
                f"{'knows' if len(names) == 1 else 'know'} no newer ring key than {short_id(key_id)}",
                code="key-needed",
                thing=short_id(key_id),
                hint="it goes by itself when they are back or forgotten; with --force it goes now, and they "
                "return by their identity, like hosts that slept through a change",
            )
        self._new_removed.add(key_id)
        self._tell("the ring key %s was removed; no host accepts it any more in half a minute", key_id)
        await self._step()
        return True

    def picture(self) -> KeyPicture:
        """Return what this host sees now."""
        view = self.live.view
        picture = picture_of(
            view,
            self.store.ring,
            excluded=self._excluded(view),
            is_signer=self.is_signer,
            compromised=self.compromised(view),
            leaked=self._leaked(view),
            offered=self._opened,
            rotate_every_s=self.rotate_every_s(),
            now_s=self.store.now_s,
        )
        return replace(
            picture,
            standby=picture.standby | self._new_standby,
            removed=picture.removed | self._new_removed,
            may_settle=trio.current_time() >= self._settle_at,
        )

    def keys_known_by(self, host_id: HostId) -> tuple[KeyId, ...]:
        """Return the keys that a host may know which is about to be revoked: all of this host's ring, and what the
        records say that it has or is given, which this host may not have yet."""
        own = {one.key_id for one in self.store.ring}
        more = sorted(known_keys(self.live.view).get(host_id, set()) - own)
        return tuple(sorted([*own, *more[: MAX_KEY_IDS - len(own)]]))

    def _leaked(self, view: RegistryView) -> frozenset[KeyId]:
        if trio.current_time() < self._settle_at:
            return frozenset()
        found = (self._known_by.get(one, frozenset()) for one in view.revoked)
        return frozenset().union(*found) - self.compromised(view)

    def _note_known(self, view: RegistryView) -> None:
        known = {one: frozenset(keys) for one, keys in known_keys(view).items()}
        for one in view.revoked:
            # Those who give it one have not heard of the revocation. What it had before is in no record any more.
            before = self._known_by.get(one, frozenset())
            both = before | known[one]
            known[one] = both if len(both) <= MAX_LEAKED else before
        self._known_by = known

    @property
    def retiring(self) -> frozenset[KeyId]:
        """Keys that are accepted for a moment longer only."""
        return frozenset(self._retiring)

    # -- running -----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Run until cancelled."""
        self._answers_at = trio.current_time() + CATCH_UP_S
        self._knows_since = min(self._knows_since, self._answers_at)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._return_to_others)
            await self._task.run(self._look, logger, "cannot change the ring keys yet", RETRY_S)

    async def _look(self) -> None:
        """Take a step if anything can have changed."""
        view = self.live.view
        self._note_met(view)
        seen = (view.store.key_records, view.hosts, self.store.keys, self.compromised(view))
        # Compared by identity: a look at an unchanged cluster costs nothing.
        is_same = len(seen) == len(self._seen) and all(
            new is old for new, old in zip(seen[:3], self._seen[:3], strict=True)
        )
        if (
            is_same
            and seen[3] == self._seen[3]
            and not (self._retiring or self._shown or self._has_more or self._has_admitted or self._is_due())
            and not self._looked_at < self._settle_at <= trio.current_time()
        ):
            return
        self._looked_at = trio.current_time()
        await self._step()
        self._seen = seen

    @property
    def is_overdue(self) -> bool:
        """True while the key in use should have been changed: it is too old, or a revoked host may know it."""
        return self._is_due() or self.store.ring[0].key_id in self.compromised(self.live.view)

    def _note_met(self, view: RegistryView) -> None:
        compromised, now = self.compromised(view), trio.current_time()
        if not compromised:
            if view.hosts is not self._met_of and now >= self._knows_since:
                self._met_of = view.hosts
                self._met.update(view.hosts)
            return
        self._note_vouched(view)
        if not compromised.isdisjoint(one.key_id for one in self.store.ring):
            self._clean_at = now + CLEAN_S
        elif now >= self._clean_at:
            self._met.update(host_id for host_id, host in view.hosts.items() if host.is_live)

    def _note_vouched(self, view: RegistryView) -> None:
        """Note hosts that came while a key was compromised and that a member has admitted. It could have given them
        any key; so its word lets in no host that could not come in anyway."""
        looked_at = (view.store.key_records, view.hosts)
        # One that knows nobody excludes nobody, and must not begin to by one word.
        if self._met <= {view.local} or all(
            new is old for new, old in zip(looked_at, self._vouched_of, strict=True)
        ):
            return
        self._vouched_of = looked_at
        strangers = set(view.hosts) - self._met
        vouching = list(self._met) if strangers else []
        while vouching:
            member = vouching.pop()
            record = ring_record(view, member) if self._vouches(view, member) else None
            found = strangers.intersection(record.admitted if record is not None else ())
            self._met |= found
            strangers -= found
            vouching += found

    def _vouches(self, view: RegistryView, member: HostId) -> bool:
        return member in view.hosts and member not in view.evicted and self.is_signer(member)

    def _is_due(self) -> bool:
        every_s, primary = self.rotate_every_s(), self.store.ring[0]
        return 0 < every_s <= self.store.now_s - primary.since_s

    async def _step(self) -> None:
        self.store.note_start()
        view = self.live.view
        while self._shown:
            self._take_shown(self._shown.popitem()[1])
        self._open_sealed(view)
        self._note_known(view)
        picture = self.picture()
        steps = decide(picture)
        for key_id, number in steps.renumber.items():
            self.store.renumber(key_id, number)
        for held in steps.install:
            self._install(held)
        if steps.use is not None:
            self.store.use(steps.use)
            self._tell("sealing with the ring key %s from now on", steps.use)
        if steps.rotate:
            self._make(picture)
            self._settle_at = trio.current_time() + SETTLE_PAUSE_S
        # A key goes only if the step that takes up another one has been published before.
        retire = steps.retire if steps.use is None else frozenset()
        await self._publish(steps, retire)
        self._remove_retired(retire)

    def _install(self, held: HeldKey) -> None:
        for added in self.store.add(NumberedKey(self._opened[held], held.number)):
            logger.info("accepting the new ring key %s", short_id(added))

    def _make(self, picture: KeyPicture) -> KeyId:
        made = self.store.add(NumberedKey(os.urandom(NEW_KEY_BYTES), next_number(picture)))
        if not made:
            raise _ring_is_full()
        self._tell("made the ring key %s; it is used once all live hosts have it", made[0])
        return made[0]

    def _tell(self, what: str, key_id: KeyId) -> None:
        logger.info(what, short_id(key_id), extra=event(EventKind.AGENT))

    def _open_sealed(self, view: RegistryView) -> None:
        """Open the keys that others give to this host."""
        held = {one.key_id for one in self.store.ring}
        self._opened = {one: key for one, key in self._opened.items() if one.key_id not in held}
        tries, self._has_more = 0, False
        for host in others(view, self._excluded(view)):
            if not host.is_live or not self.is_signer(host.host_id):
                continue
            of_one = 0
            for record in sealed_records(view, host.host_id):
                mine = next((one for one in record.sealed if one.to == view.local), None)
                offer = HeldKey(record.key_id, record.number)
                if mine is None or record.key_id in held or offer in self._opened:
                    continue
                if mine.ephemeral in self._tried:
                    continue
                if tries >= OPENED_LIMIT or of_one >= OPENED_OF_ONE:
                    self._has_more = True
                    break
                tries, of_one = tries + 1, of_one + 1
                self._tried.add(mine.ephemeral)
                key = self._exchange.open_untrusted(mine, offer, host.host_id)
                if key is not None:
                    self._opened[offer] = key
        if len(self._tried) > 16 * OPENED_LIMIT:
            self._tried.clear()

    async def _publish(self, steps: KeySteps, retire: frozenset[KeyId]) -> None:
        view = self.live.view
        held = sorted(HeldKey(one.key_id, one.number) for one in self.store.ring if one.key_id not in retire)
        standby = sorted(steps.standby & {one.key_id for one in held})
        removed = sorted(steps.removed)[:MAX_RING_KEYS]
        primary = self.store.ring[0].key_id
        now = trio.current_time()
        self._admitted = {one: until for one, until in self._admitted.items() if now < until}
        own = RingKeysRecord(
            self._exchange.public,
            primary,
            tuple(held),
            tuple(standby),
            tuple(removed),
            tuple(sorted(self._admitted)),
        )
        self._has_admitted = False
        put: list[RingKeysRecord | SealedKeysRecord] = []
        if ring_record(view, view.local) != own:
            put.append(own)
        old = [one for one in sealed_records(view, view.local) if not is_wanted(view, one)]
        for key_id, hosts in steps.give.items():
            put += self._sealed(view, key_id, hosts, is_standby=key_id in steps.standby)
        said = self._new_standby | self._new_removed
        if put or old:
            await self.publisher.change(put=put, withdraw=old)
        self._new_standby -= said
        self._new_removed -= said

    def _sealed(
        self, view: RegistryView, key_id: KeyId, hosts: Sequence[HostId], *, is_standby: bool
    ) -> list[SealedKeysRecord]:
        key = self.store.key_of(key_id)
        number = next((one.number for one in self.store.ring if one.key_id == key_id), 0)
        if key is None or (number == 0 and not is_standby):
            return []
        held, sealed = HeldKey(key_id, number), []
        for to in hosts:
            record = ring_record(view, to)
            one = None if record is None else self._exchange.seal(key, held, to, record.exchange_key)
            if one is not None:
                sealed.append(one)
        used = {one.part for one in sealed_records(view, view.local) if one.key_id == key_id}
        parts = iter(sorted(set(range(MAX_PARTS)) - used))
        return [
            SealedKeysRecord(key_id, number, part, tuple(sealed[first : first + MAX_SEALED]))
            for first, part in zip(range(0, len(sealed), MAX_SEALED), parts, strict=False)
        ]

    def _remove_retired(self, retire: frozenset[KeyId]) -> None:
        now = trio.current_time()
        self._retiring = {one: self._retiring.get(one, now + RETIRE_S) for one in retire}
        gone = [one for one, at in self._retiring.items() if at <= now]
        if gone:
            self.store.remove(gone)
            for one in gone:
                del self._retiring[one]
                self._tell("no longer accepting the ring key %s", one)

    def _excluded(self, view: RegistryView) -> frozenset[HostId]:
        """Return the hosts that count for nothing: revoked ones, and those that came while a key was compromised and
        have not been understood without it since."""
        revoked = frozenset(view.revoked)
        # One that has just come knows no host from before; if it excluded all, it would go its own way.
        if not self.compromised(view) or self._met <= {view.local}:
            return revoked
        return revoked | {one for one in view.hosts if one not in self._met and one != view.local}

    def _name(self, host_id: HostId) -> str:
        host = self.live.view.hosts.get(host_id)
        return short_id(host_id) if host is None else host.name

    # -- returning ---------------------------------------------------------------------------------------------

    async def _return_to_others(self) -> None:
        """Go to hosts that are away and with which no key is shared, as far as this host knows."""
        rng, pause_s = random.SystemRandom(), RETURN_S
        while True:
            await trio.sleep(pause_s * rng.uniform(0.5, 1.5))
            hosts = self._out_of_touch()
            if not hosts:
                pause_s = RETURN_S
                continue
            done = await self._return_to_any(rng.sample(hosts, min(len(hosts), ASKED_AT_ONCE)))
            longest_s = MAX_ALONE_S if self._is_alone() else MAX_RETURN_S
            pause_s = RETURN_S if done else min(2 * pause_s, longest_s)

    def _is_alone(self) -> bool:
        """True while this host hears no other that counts."""
        view = self.live.view
        return not any(host.is_live for host in others(view, self._excluded(view)))

    async def _return_to_any(self, hosts: Sequence[HostId]) -> bool:
        """Ask hosts at the same time. True: one of them and this host know each other's keys now."""
        done: list[bool] = []

        async def ask(host_id: HostId) -> None:
            done.append(await self._return_to(host_id))

        async with trio.open_nursery() as nursery:
            for one in hosts:
                nursery.start_soon(ask, one)
        return any(done)

    def _out_of_touch(self) -> list[HostId]:
        view = self.live.view
        excluded = self._excluded(view)
        is_alone, primary = self._is_alone(), self.store.ring[0]
        found = []
        for host in others(view, excluded):
            record = ring_record(view, host.host_id)
            # A host that has our key hears us: if it is away, then for another reason. One that has it on standby
            # does not seal with it: we do not hear that one.
            knows_ours = record is None or any(
                one.key_id == primary.key_id and (one.number > 0 or not primary.number) for one in record.held
            )
            is_wanted = is_alone or not knows_ours
            if is_wanted and not host.is_live and self._is_known(view, host.host_id, excluded):
                found.append(host.host_id)
        return found

    async def _return_to(self, host_id: HostId) -> bool:
        """Ask one host. True: this host and that one know each other's keys now."""
        address = self.record_address(host_id)
        if address is None:
            return False
        conversation = ReturnerConversation(
            self.identity,
            bytes.fromhex(self.store.keys.cluster_id),
            os.urandom,
            is_member=self.is_known,
            # One that is alone takes up the others' key at once. Its own, of yesterday, is of no use to others.
            ring=() if self._is_alone() else self.store.numbered,
        )
        try:
            peer = await return_to(address, conversation)
            self.note_returned(peer)
        except (EntryError, NetagentError) as error:
            logger.debug("cannot return by %s: %s", self._name(host_id), error)
            self.refused(str(error))
            return False
        return True


def _refuse_while_changing(picture: KeyPicture) -> None:
    under_way = pending(picture)
    if under_way is not None:
        raise RefusedError(
            f"the key {short_id(under_way)} is not in use on all hosts yet",
            code="rotation-under-way",
            thing=short_id(under_way),
            hint="wait for it: `netagent keys list` shows which hosts lack it",
        )


def _no_standby(picture: KeyPicture, key_id: KeyId) -> str:
    """Return why a key cannot be on standby; empty: it can."""
    if key_id in picture.compromised:
        return "a revoked host may know it"
    if key_id in picture.removed.union(*(one.removed for one in picture.peers)):
        return "it was removed, and hosts have it still"
    if any(one.held.get(key_id) or one.primary == key_id for one in picture.peers):
        return "other hosts use it, or did"
    if len(standby_keys(picture) - {key_id}) >= MAX_STANDBY:
        return f"{MAX_STANDBY} keys are on standby already"
    return ""


def _ring_is_full() -> RefusedError:
    return RefusedError(
        f"the ring has {MAX_RING_KEYS} keys already",
        code="too-many-keys",
        hint="forget hosts that are gone for good: old keys are kept for hosts that are away",
    )
