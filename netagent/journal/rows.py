"""What the journal keeps beside the records: facts of this host alone, as values.

An endpoint's row is written before its address is in any kernel, and says how far the attach came: after a crash the
agent finds either a finished endpoint or one whose half-made parts it takes down.
"""

from __future__ import annotations

import dataclasses
import enum
import json
from dataclasses import dataclass
from typing import Any

from netagent.model.ids import EndpointId, NetworkId
from netagent.model.publication import Publication
from netagent.model.records import Health, Link, Port


class Stage(enum.Enum):
    """How far an attach came."""

    RESERVED = "reserved"
    """The address is ours; a kernel object may not exist yet."""
    PUBLISHED = "published"
    """Other hosts may know it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalEndpointRow:
    """An endpoint of this host. The allocator fills in `offset`, `addresses` and `mac` of the row it is given."""

    endpoint_id: EndpointId
    network_id: NetworkId
    name: str
    service: str
    offset: int = 0
    addresses: tuple[str, ...] = ()
    """Without prefix length, one for each subnet of the network."""
    mac: str = ""
    target: str = ""
    """What the user typed: `netns:web1`, a path, `docker:web`."""
    netns_path: str = ""
    netns_dev: int = 0
    netns_inode: int = 0
    """Device and inode of the namespace file: with `boot_id` they identify the namespace."""
    boot_id: str = ""
    ifname: str = ""
    stage: Stage = Stage.RESERVED
    links: tuple[Link, ...] = ()
    aliases: tuple[str, ...] = ()
    ports: tuple[Port, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    publish: tuple[Publication, ...] = ()
    """Ports of this host that lead to it."""
    health: Health = Health.UNKNOWN
    origin: str = ""
    """The runtime that created it and the runtime's name for it: `docker:ENDPOINT`, `podman:CONTAINER/IFNAME`,
    `cni:CONTAINER/IFNAME`. Empty: attached by hand."""
    behind_runtime: bool = False
    """The runtime's own resolver holds 127.0.0.11 in the namespace (netagent.endpoints.targets.Target)."""


def endpoint_to_json(row: LocalEndpointRow) -> str:
    """The row as JSON text, readable with any sqlite shell."""
    fields = dataclasses.asdict(row)
    fields["stage"], fields["health"] = row.stage.value, row.health.value
    if row.health is Health.STARTING:  # the previous release does not know this word, but must find the row
        fields["health"], fields["starting"] = Health.UNHEALTHY.value, True
    return json.dumps(fields, separators=(",", ":"), sort_keys=True)


def endpoint_from_json(text: str) -> LocalEndpointRow:
    """Parse such a row. Fields that a later release added are dropped. Raises ValueError for anything else."""
    try:
        fields: dict[str, Any] = json.loads(text)
        is_starting = fields.get("starting") is True
        known = {one.name for one in dataclasses.fields(LocalEndpointRow)}
        fields = {name: value for name, value in fields.items() if name in known}
        fields["stage"] = Stage(fields["stage"])
        fields["health"] = Health.STARTING if is_starting else Health(fields.get("health", Health.UNKNOWN))
        fields["addresses"] = tuple(fields["addresses"])
        fields["aliases"] = tuple(fields["aliases"])
        fields["links"] = tuple(Link(**link) for link in fields["links"])
        fields["ports"] = tuple(Port(**port) for port in fields["ports"])
        fields["labels"] = tuple((key, value) for key, value in fields["labels"])
        fields["publish"] = tuple(Publication(**one) for one in fields.get("publish", ()))
        return LocalEndpointRow(**fields)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"not an endpoint row: {error}") from None
