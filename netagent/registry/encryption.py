"""What the registry says of encryption: how far this host is, and where other hosts' ends of the tunnel are. Pure.

How a cluster comes to encrypt, and whom it believes: netagent.model.encryption_switch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from netagent.model.address.tunnel import MAX_SALT, tunnel_address, tunnel_number
from netagent.model.ids import HostId
from netagent.model.records import EncryptionRecord, EncryptionStage, TunnelRecord
from netagent.registry.record_codec import TUNNEL_KEY
from netagent.registry.store import StoredRecord
from netagent.registry.view import AgentState, RegistryView
from netgossip.types import CLUSTER_SCOPE

_NO_CLAIMS: Mapping[HostId, TunnelRecord] = {}
_NO_LOG: Mapping[bytes, StoredRecord] = {}
_LAST_ID: Final = HostId("g")
"""Greater than every id."""


def stage_of(view: RegistryView, host_id: HostId) -> EncryptionStage:
    """Return the stage that a host is at, or is about to be at."""
    record = view.encryption_records.get(host_id)
    return EncryptionStage.CLEAR if record is None else record.stage


def is_encrypted(view: RegistryView) -> bool:
    """True if this host sends what containers send to other hosts by the tunnel alone."""
    return stage_of(view, view.local) >= EncryptionStage.SENDING


def sends_from_tunnel(view: RegistryView) -> bool:
    """True if this host's VXLAN devices send from its address in the tunnel.

    Where it begins to encrypt, that comes after all remotes are inside: until then its packets have its underlay
    address, which its peers take from the tunnel as well while the cluster changes over. In the other order they
    would leave in the clear from an address that exists in the tunnel alone, and be lost.
    """
    own = view.encryption_records.get(view.local)
    if own is None or own.stage < EncryptionStage.SENDING:
        return False
    return own.stage is EncryptionStage.FENCED or own.is_reached or not own.is_on


def is_encryption_on(view: RegistryView) -> bool:
    """True if the cluster encrypts, or is about to."""
    return view.encryption is not None and view.encryption.is_on


def live_others(view: RegistryView) -> dict[HostId, EncryptionRecord | None]:
    """Return what the other live hosts say of encryption; None: nothing yet."""
    return {
        host_id: view.encryption_records.get(host_id)
        for host_id, host in view.hosts.items()
        if host_id != view.local and host.is_live and host_id not in view.evicted
    }


def tunnel_of(view: RegistryView, host_id: HostId) -> TunnelRecord | None:
    """Return a host's end of the tunnel; None while it has none that counts: its number is another's, too."""
    record = _said(view, host_id)
    if record is None:
        return None
    claims = view.store.tunnels.get(tunnel_number(host_id, record.salt), _NO_CLAIMS)
    return record if min(claims, default=None) == host_id else None


def _said(view: RegistryView, host_id: HostId) -> TunnelRecord | None:
    held = view.store.records.get((CLUSTER_SCOPE, host_id), _NO_LOG).get(TUNNEL_KEY)
    return held.record if held is not None and isinstance(held.record, TunnelRecord) else None


def tunnel_address_of(view: RegistryView, host_id: HostId, version: int) -> str | None:
    """Return a host's address in the tunnel, for an underlay of this version of IP; None while it has none."""
    record = tunnel_of(view, host_id)
    if record is None:
        return None
    return tunnel_address(tunnel_number(host_id, record.salt), version=version)


def own_salt(view: RegistryView) -> int:
    """Return the salt of this host's own end: the present one, unless a host with a smaller id has its number."""
    record = _said(view, view.local)
    first: int = record.salt if record is not None else 0
    salts: tuple[int, ...] = (*range(first, MAX_SALT + 1), *range(first))
    for salt in salts:
        others = set(view.store.tunnels.get(tunnel_number(view.local, salt), _NO_CLAIMS)) - {view.local}
        if view.local < min(others, default=_LAST_ID):
            return salt
    return first


def tunnel_peers(view: RegistryView) -> Iterator[tuple[HostId, str, TunnelRecord]]:
    """Yield the other hosts that have an end of the tunnel, each with its underlay address. Of several with one
    public key, which can be one peer only, the first host has it; this host's own key is no other's."""
    if view.local in view.evicted:
        return
    own = tunnel_of(view, view.local)
    keys = set() if own is None else {own.public_key}
    for host_id, host in sorted(view.hosts.items()):
        record = tunnel_of(view, host_id)
        if host_id == view.local or host.record is None or host.agent is AgentState.LEFT or record is None:
            continue
        if record.public_key not in keys:
            keys.add(record.public_key)
            yield host_id, host.record.underlay, record
