"""Commands of ring keys: which hosts accept which, a change of the key, and what an operator does by hand."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable

import trio

from netagent.commands.handlers import answers
from netagent.daemon.agent import Agent
from netagent.daemon.cluster import Cluster
from netagent.errors import FailedError, InputError, NotFoundError
from netagent.interface import schema
from netagent.interface.ring_keys import (
    KeysInstallCommand,
    KeysListCommand,
    KeysRemoveCommand,
    KeysRotateCommand,
    KeysUseCommand,
)
from netagent.keys.controller import NEW_KEY_BYTES
from netagent.keys.stages import (
    KeyPicture,
    RingKey,
    lacking,
    not_sealing,
    pending,
    standby_keys,
    without_records,
)
from netagent.model.ids import HostId, KeyId
from netagent.registry.views import short_id

WAIT_S = 60.0
"""Longest wait for all hosts; each takes a few steps of a second."""
POLL_S = 0.2


@answers(KeysListCommand)
async def list_all(agent: Agent, _request: KeysListCommand) -> schema.Listing[schema.RingKeyInfo]:
    """Return the keys that this host or another one accepts."""
    cluster = agent.member()
    picture = cluster.ring_keeper.picture()
    own = {one.key_id for one in picture.ring}
    more = {key_id: number for peer in picture.peers for key_id, number in peer.held.items()}
    elsewhere = [RingKey(one, number, picture.now_s) for one, number in more.items() if one not in own]
    return {
        "items": [_info(cluster, picture, one) for one in (*picture.ring, *elsewhere)],
        "warnings": [*rotation_notices(cluster), *_overstating(cluster, picture)],
    }


@answers(KeysRotateCommand)
async def rotate(agent: Agent, request: KeysRotateCommand) -> schema.RingKeyRotated:
    """Make a new key; with --wait, return when all live hosts seal with it."""
    cluster = agent.member()
    made = await cluster.ring_keeper.rotate()
    if request.wait:
        await _until_used(cluster, made)
    picture = cluster.ring_keeper.picture()
    return {
        "id": made,
        "in_use": pending(picture) is None,
        "hosts": _count(picture, made),
        "lacking": _names(cluster, lacking(picture, made)),
        "warnings": rotation_notices(cluster),
    }


@answers(KeysInstallCommand)
async def install(agent: Agent, request: KeysInstallCommand) -> schema.RingKeyInstalled:
    """Give a key to all hosts; with --wait, return when all live ones have it."""
    cluster = agent.member()
    key = key_untrusted(request.key) if request.key else None
    key_id, created = await cluster.ring_keeper.install(key)
    if request.wait:
        await _until(
            cluster,
            key_id,
            lambda picture: lacking(picture, key_id),
            what="not on all hosts",
            whose="lacking",
        )
    picture = cluster.ring_keeper.picture()
    return {
        "id": key_id,
        "created": created,
        "hosts": _count(picture, key_id),
        "lacking": _names(cluster, lacking(picture, key_id)),
        "warnings": rotation_notices(cluster),
    }


@answers(KeysUseCommand)
async def use(agent: Agent, request: KeysUseCommand) -> schema.RingKeyUsed:
    """Let all hosts use a key; with --wait, return when all live ones seal with it."""
    cluster = agent.member()
    key_id = _find(cluster.ring_keeper.picture(), request.key)
    changed = await cluster.ring_keeper.use(key_id)
    if request.wait:
        await _until_used(cluster, key_id)
    picture = cluster.ring_keeper.picture()
    return {
        "id": key_id,
        "changed": changed,
        "in_use": pending(picture) is None,
        "hosts": _count(picture, key_id),
        "warnings": rotation_notices(cluster),
    }


@answers(KeysRemoveCommand)
async def remove(agent: Agent, request: KeysRemoveCommand) -> schema.RingKeyRemoved:
    """Let no host accept a key any more."""
    cluster = agent.member()
    picture = cluster.ring_keeper.picture()
    key_id = _find(picture, request.key)
    changed = await cluster.ring_keeper.remove(key_id, force=request.force)
    having = [peer for peer in picture.peers if key_id in peer.held]
    return {
        "id": key_id,
        "changed": changed,
        "hosts": _names(cluster, (one.host_id for one in having if one.is_live)),
        "away": _names(cluster, (one.host_id for one in having if not one.is_live)),
        "warnings": rotation_notices(cluster),
    }


def key_untrusted(text: str) -> bytes:
    """Return a ring key that an operator brought. InputError for what is none."""
    try:
        key = base64.b64decode(text, validate=True) if len(text) <= 2 * NEW_KEY_BYTES else b""
    except (binascii.Error, ValueError):
        key = b""
    # An editor's template, or a file of zeros, is no key. Of random bytes 32 have more than 16 different ones.
    if len(key) != NEW_KEY_BYTES or len(set(key)) <= NEW_KEY_BYTES // 2:
        raise InputError(
            f"that is no ring key: {NEW_KEY_BYTES} random bytes in Base64",
            thing="key",
            hint="`head -c 32 /dev/urandom | base64` makes one, and so does `netagent keys install` without a file",
        )
    return key


def _find(picture: KeyPicture, text: str) -> KeyId:
    """Return the key that an operator names by its id or the first digits of it."""
    known = {one.key_id for one in picture.ring} | {one for peer in picture.peers for one in peer.held}
    found = sorted(one for one in known if one.startswith(text.lower())) if text else []
    if len(found) != 1:
        raise NotFoundError(
            f"{len(found)} ring keys begin with {text!r}" if found else f"no host has a ring key {text!r}",
            thing=text,
            hint="`netagent keys list` shows their ids",
        )
    return found[0]


def _count(picture: KeyPicture, key_id: KeyId) -> int:
    """Return how many live hosts have a key, this one included."""
    own = any(one.key_id == key_id for one in picture.ring)
    return own + sum(key_id in peer.held for peer in picture.peers if peer.is_live)


async def _until_used(cluster: Cluster, key_id: KeyId) -> None:
    def missing(picture: KeyPicture) -> tuple[HostId, ...]:
        if pending(picture) is None:
            return ()  # also where a better key has overtaken it
        own = () if picture.ring[0].key_id == key_id else (picture.local,)
        return lacking(picture, key_id) or not_sealing(picture, key_id) or own

    await _until(cluster, key_id, missing, what="not in use on all hosts", whose="not yet on")


async def _until(
    cluster: Cluster,
    key_id: KeyId,
    missing: Callable[[KeyPicture], tuple[HostId, ...]],
    *,
    what: str,
    whose: str,
) -> None:
    """Wait until no host is missing. FailedError names those that are after WAIT_S."""
    hosts = missing(cluster.ring_keeper.picture())
    with trio.move_on_after(WAIT_S):
        while hosts:
            await trio.sleep(POLL_S)
            hosts = missing(cluster.ring_keeper.picture())
    if hosts:
        raise FailedError(
            f"the ring key {short_id(key_id)} is {what} after {WAIT_S:.0f} s; "
            f"{whose}: {', '.join(_names(cluster, hosts))}",
            code="rotation-waits",
            thing=short_id(key_id),
            hint="nothing is lost, and it goes on by itself: see `netagent keys list`",
        )


def ring_key_part(cluster: Cluster) -> schema.RingKeyPart:
    """Return what `status` says of the ring key."""
    picture = cluster.ring_keeper.picture()
    primary, next_one = picture.ring[0], pending(picture)
    is_changing = next_one is not None and next_one != primary.key_id
    return {
        "id": primary.key_id,
        "age_s": max(round(picture.now_s - primary.since_s, 1), 0.0),
        "changing_to": next_one if next_one is not None and is_changing else "",
        "lacking": _names(cluster, lacking(picture, next_one))
        if next_one is not None and is_changing
        else [],
    }


def overdue_notices(cluster: Cluster) -> list[schema.Notice]:
    """The same as rotation_notices, once the key should have changed: a host that has just joined is no fault."""
    return rotation_notices(cluster) if cluster.ring_keeper.is_overdue else []


def rotation_notices(cluster: Cluster) -> list[schema.Notice]:
    """Warn of hosts that hold up a change of the key."""
    names = _names(cluster, without_records(cluster.ring_keeper.picture()))
    if not names:
        return []
    return [
        {
            "code": "keys-held-up",
            "message": f"the ring key cannot change: {', '.join(names)} did not say which keys they accept",
            "cure": "upgrade netagent on them; a host that has just started says so within seconds",
        }
    ]


def _overstating(cluster: Cluster, picture: KeyPicture) -> list[schema.Notice]:
    """Warn of hosts that give keys numbers that no cluster reaches."""
    names = _names(cluster, (peer.host_id for peer in picture.peers if peer.overstated))
    if not names:
        return []
    return [
        {
            "code": "key-number-too-high",
            "message": f"{', '.join(names)} calls a ring key far newer than any other; no host believes it",
            "cure": "look into what runs on it; `netagent revoke HOST` shuts out a host that an attacker may control",
        }
    ]


def _info(cluster: Cluster, picture: KeyPicture, key: RingKey) -> schema.RingKeyInfo:
    primary = picture.ring[0].key_id
    if key.key_id == primary:
        state = "primary"
    elif all(one.key_id != key.key_id for one in picture.ring):
        state = "elsewhere"
    elif key.key_id in standby_keys(picture):
        state = "standby"
    elif key.key_id in cluster.ring_keeper.retiring:
        state = "retiring"
    else:
        state = "new" if pending(picture) == key.key_id else "accepted"
    return {
        "id": key.key_id,
        "state": state,
        "number": key.number,
        "age_s": max(round(picture.now_s - key.since_s, 1), 0.0),
        "hosts": _names(cluster, (peer.host_id for peer in picture.peers if key.key_id in peer.held)),
        "lacking": [] if state == "retiring" else _names(cluster, lacking(picture, key.key_id)),
        "away": _names(cluster, lacking(picture, key.key_id, live=False)),
    }


def _names(cluster: Cluster, hosts: Iterable[HostId]) -> list[str]:
    known = cluster.live.view.hosts
    return sorted(
        (known[one].unique_name or known[one].name) if one in known else short_id(one) for one in hosts
    )
