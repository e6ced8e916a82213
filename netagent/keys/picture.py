"""What this host sees of the others' ring keys, from the view and its own ring. Pure."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import TypeAlias

from netagent.keys.stages import KeyPicture, PeerKeys, RingKey
from netagent.model.ids import HostId, KeyId
from netagent.model.ring_key import (
    MAX_NUMBER_STEP,
    HeldKey,
    RingKeysRecord,
    SealedKey,
    SealedKeysRecord,
    exchange_tag,
)
from netagent.registry.key_fields import RING_KEYS_KEY
from netagent.registry.view import AgentState, HostView, RegistryView

IsSigner: TypeAlias = Callable[[HostId], bool]
_NO_RECORDS: Mapping[bytes, RingKeysRecord | SealedKeysRecord] = {}


def ring_record(view: RegistryView, host_id: HostId) -> RingKeysRecord | None:
    """Return what a host publishes of its keys."""
    # By its key: a member may write thousands of the other kind, and this is asked for each of them.
    record = view.store.key_records.get(host_id, _NO_RECORDS).get(RING_KEYS_KEY)
    return record if isinstance(record, RingKeysRecord) else None


def sealed_records(view: RegistryView, host_id: HostId) -> Iterator[SealedKeysRecord]:
    """Yield the keys that a host gives to others."""
    for one in view.store.key_records.get(host_id, {}).values():
        if isinstance(one, SealedKeysRecord):
            yield one


def known_keys(view: RegistryView) -> dict[HostId, set[KeyId]]:
    """Return the keys that each host may know by the records that count: those that it says it has, and those that
    others give to it, whether it says that it took them or not."""
    found: dict[HostId, set[KeyId]] = {one: set() for one in (*view.hosts, *view.revoked)}
    for host_id in view.store.key_records:
        record = ring_record(view, host_id)
        if record is not None and host_id in found:
            found[host_id].update(one.key_id for one in record.held)
        for given in sealed_records(view, host_id):
            for one in given.sealed:
                if one.to in found:
                    found[one.to].add(given.key_id)
    return found


def others(view: RegistryView, excluded: Collection[HostId]) -> Iterator[HostView]:
    """Yield the other hosts that keys are for: those that are neither evicted nor excluded, and have not left."""
    for host_id, host in view.hosts.items():
        is_gone = host_id in view.evicted or host.agent is AgentState.LEFT
        if host_id != view.local and not is_gone and host_id not in excluded:
            yield host


def picture_of(
    view: RegistryView,
    ring: tuple[RingKey, ...],
    *,
    excluded: Collection[HostId],
    is_signer: IsSigner,
    compromised: frozenset[KeyId],
    leaked: frozenset[KeyId],
    offered: Collection[HeldKey],
    rotate_every_s: float,
    now_s: float,
) -> KeyPicture:
    """Return the picture. A host whose records are not signed counts as one that publishes nothing."""
    hosts = list(others(view, excluded))
    records = {one.host_id: ring_record(view, one.host_id) for one in hosts if is_signer(one.host_id)}
    highest = _highest_numbers(ring, records.values())
    peers = [_peer_of(host, records.get(host.host_id), highest) for host in hosts]
    believed = max((number for one in peers for number in one.held.values()), default=0)
    own = ring_record(view, view.local)
    given: dict[KeyId, set[HostId]] = {}
    for giver in (view.local, *(host.host_id for host in hosts if host.is_live)):
        for sealed_key in sealed_records(view, giver):
            good = {one.to for one in sealed_key.sealed if is_current(view, one)}
            given.setdefault(sealed_key.key_id, set()).update(good)
    return KeyPicture(
        local=view.local,
        ring=ring,
        peers=tuple(peers),
        standby=frozenset(own.standby if own is not None else ()),
        removed=frozenset(own.removed if own is not None else ()),
        # Who gives a key holds it: its number is among those that are believed.
        offered=frozenset(one for one in offered if one.number <= believed),
        given={key_id: frozenset(to) for key_id, to in given.items()},
        compromised=compromised,
        leaked=leaked,
        rotate_every_s=rotate_every_s,
        now_s=now_s,
    )


def _highest_numbers(ring: tuple[RingKey, ...], records: Iterable[RingKeysRecord | None]) -> tuple[int, int]:
    """Return the two highest numbers that different hosts give to keys, this one included."""
    numbers = [max(one.number for one in ring)]
    numbers += [max((held.number for held in one.held), default=0) for one in records if one is not None]
    first, second = heapq.nlargest(2, [*numbers, 0])
    return first, second


def _peer_of(host: HostView, record: RingKeysRecord | None, highest: tuple[int, int]) -> PeerKeys:
    if record is None:
        return PeerKeys(host.host_id, host.is_live)
    own = max((one.number for one in record.held), default=0)
    # Compared with what the others say: no host is a witness to its own numbers.
    limit = (highest[1] if own == highest[0] else highest[0]) + MAX_NUMBER_STEP
    overstated = frozenset(one.key_id for one in record.held if one.number > limit)
    return PeerKeys(
        host.host_id,
        host.is_live,
        record.primary,
        {one.key_id: 0 if one.key_id in overstated else one.number for one in record.held},
        overstated,
        frozenset(record.standby),
        frozenset(record.removed),
    )


def is_current(view: RegistryView, sealed: SealedKey) -> bool:
    """True if its recipient can open it: its agent has not started again since."""
    record = ring_record(view, sealed.to)
    return record is not None and exchange_tag(record.exchange_key) == sealed.exchange_tag


def is_wanted(view: RegistryView, record: SealedKeysRecord) -> bool:
    """True while a host that can open it, and is there, lacks the key."""
    for one in record.sealed:
        host, known = view.hosts.get(one.to), ring_record(view, one.to)
        is_there = host is not None and host.is_live and is_current(view, one)
        if is_there and known is not None and not known.holds(record.key_id):
            return True
    return False
