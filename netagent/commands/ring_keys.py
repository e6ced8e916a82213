"""Commands of ring keys: what this host accepts, who lacks what, and a change of the key."""

from __future__ import annotations

from collections.abc import Iterable

import trio

from netagent.commands.handlers import answers
from netagent.daemon.agent import Agent
from netagent.daemon.cluster import Cluster
from netagent.errors import FailedError
from netagent.interface import schema
from netagent.interface.ring_keys import KeysListCommand, KeysRotateCommand
from netagent.keys.stages import KeyPicture, RingKey, lacking, pending, without_records
from netagent.model.ids import HostId, KeyId
from netagent.registry.views import short_id

WAIT_S = 60.0
"""Longest wait for all hosts; each takes a few steps of a second."""
POLL_S = 0.2


@answers(KeysListCommand)
async def list_all(agent: Agent, _request: KeysListCommand) -> schema.Listing[schema.RingKeyInfo]:
    """Return the keys that this host accepts."""
    cluster = agent.member()
    picture = cluster.ring_keeper.picture()
    return {
        "items": [_info(cluster, picture, one) for one in picture.ring],
        "warnings": rotation_notices(cluster),
    }


@answers(KeysRotateCommand)
async def rotate(agent: Agent, request: KeysRotateCommand) -> schema.RingKeyRotated:
    """Make a new key; with --wait, return when all live hosts seal with it."""
    cluster = agent.member()
    made = await cluster.ring_keeper.rotate()
    picture = cluster.ring_keeper.picture()
    if request.wait:
        with trio.move_on_after(WAIT_S):
            while pending(picture) is not None:
                await trio.sleep(POLL_S)
                picture = cluster.ring_keeper.picture()
        if pending(picture) is not None:
            hosts = lacking(picture, made) or _not_sealing(picture, made)
            raise FailedError(
                f"the ring key {short_id(made)} is not in use on all hosts after {WAIT_S:.0f} s; "
                f"not yet on: {', '.join(_names(cluster, hosts)) or 'this host'}",
                code="rotation-waits",
                thing=short_id(made),
                hint="nothing is lost, and it goes on by itself: see `netagent keys list`",
            )
    return {
        "id": made,
        "in_use": pending(picture) is None,
        "hosts": 1 + sum(made in peer.held for peer in picture.peers if peer.is_live),
        "lacking": _names(cluster, lacking(picture, made)),
        "warnings": rotation_notices(cluster),
    }


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


def _info(cluster: Cluster, picture: KeyPicture, key: RingKey) -> schema.RingKeyInfo:
    primary = picture.ring[0].key_id
    if key.key_id == primary:
        state = "primary"
    elif key.key_id in cluster.ring_keeper.retiring:
        state = "retiring"
    else:
        state = "new" if pending(picture) == key.key_id else "accepted"
    return {
        "id": key.key_id,
        "state": state,
        "number": key.number,
        "age_s": max(round(picture.now_s - key.since_s, 1), 0.0),
        "lacking": [] if state == "retiring" else _names(cluster, lacking(picture, key.key_id)),
        "away": _names(cluster, lacking(picture, key.key_id, live=False)),
    }


def _not_sealing(picture: KeyPicture, key_id: KeyId) -> tuple[HostId, ...]:
    return tuple(one.host_id for one in picture.peers if one.is_live and one.primary != key_id)


def _names(cluster: Cluster, hosts: Iterable[HostId]) -> list[str]:
    known = cluster.live.view.hosts
    return sorted(
        (known[one].unique_name or known[one].name) if one in known else short_id(one) for one in hosts
    )
