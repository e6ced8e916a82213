"""What the journal keeps beside the records: facts of this host alone, as values.

An endpoint's row is written before its address is in any kernel, and says how far the attach came: after a crash the
agent finds either a finished endpoint or one whose half-made parts it takes down.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from netagent.model.check import Check, CheckedHealth, ExecCheck, HttpCheck, Subject, TcpCheck
from netagent.model.ids import EndpointId, NetworkId
from netagent.model.locality import DEFAULT_WEIGHT
from netagent.model.publication import Publication
from netagent.model.records import Drain, Group, Health, HealthNote, Link, Port
from netagent.model.sandbox import Netns, NetnsIdentity, SandboxId


@dataclass(frozen=True, slots=True)
class Reserved:
    """The address is ours; the runtime has not said yet which namespace it is for."""


@dataclass(frozen=True, slots=True)
class Bound:
    """The namespace is known. What the endpoint has in kernel, resolver and records is incomplete: it is being
    attached or detached."""

    netns: Netns
    ifname: str | None = None
    """The name that its interface is to get in the namespace; None: the first free `eth<N>`."""


@dataclass(frozen=True, slots=True)
class Published:
    """Complete; other hosts may know it."""

    netns: Netns
    ifname: str
    """The name of its interface in the namespace."""


Stage: TypeAlias = Reserved | Bound | Published
"""How far an attach came."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalEndpointRow:
    """An endpoint of this host."""

    endpoint_id: EndpointId
    network_id: NetworkId
    name: str
    service: str
    offset: int
    addresses: tuple[str, ...]
    """Without prefix length, one for each subnet of the network."""
    mac: str
    target: str = ""
    """What the user typed: `netns:web1`, a path, `docker:web`."""
    stage: Stage = Reserved()
    links: tuple[Link, ...] = ()
    aliases: tuple[str, ...] = ()
    ports: tuple[Port, ...] = ()
    weight: int = DEFAULT_WEIGHT
    labels: tuple[tuple[str, str], ...] = ()
    publish: tuple[Publication, ...] = ()
    """Ports of this host that lead to it."""
    health: Health = Health.UNKNOWN
    """What its runtime says of it."""
    group: Group | None = None
    drain: Drain | None = None
    health_since_s: int | None = None
    """Since when its runtime says so: Unix time. None: since it was attached."""
    checks: tuple[Check, ...] = ()
    keeps_names: bool = False
    """Names lead to it while it is unhealthy and no other replica is up."""
    checked: CheckedHealth | None = None
    """What its checks say, with `health` as one of them. None: nothing yet, or it has none."""
    origin: str | None = None
    """The runtime that created it and the runtime's name for it: `docker:ENDPOINT`, `podman:CONTAINER/IFNAME`,
    `cni:CONTAINER/IFNAME`. None: attached by hand."""

    @property
    def netns(self) -> Netns | None:
        """The namespace that it is in, or is about to be in."""
        return None if isinstance(self.stage, Reserved) else self.stage.netns

    @property
    def netns_identity(self) -> NetnsIdentity | None:
        """What its namespace is known by in this boot."""
        return None if self.netns is None else self.netns.identity

    @property
    def sandbox_id(self) -> SandboxId | None:
        """The sandbox that it is in."""
        return None if self.netns is None else self.netns.sandbox_id

    @property
    def ifname(self) -> str | None:
        """The name of its interface in the namespace, if it has one already, or was asked for."""
        return None if isinstance(self.stage, Reserved) else self.stage.ifname

    @property
    def is_published(self) -> bool:
        """True if it is complete."""
        return isinstance(self.stage, Published)


def endpoint_to_json(row: LocalEndpointRow) -> str:
    """The row as JSON text, readable with any sqlite shell. "" and 0 stand for what is missing."""
    fields = dataclasses.asdict(row)
    netns = row.netns or Netns("", (0, 0), "")
    fields |= {
        "stage": "published" if row.is_published else "reserved",
        "netns_path": netns.path,
        "netns_dev": netns.identity[0],
        "netns_inode": netns.identity[1],
        "boot_id": netns.boot_id,
        "behind_runtime": netns.behind_runtime,
        "ifname": row.ifname or "",
        "origin": row.origin or "",
        "health": row.health.value,
        "checks": [_check_to_json(one) for one in row.checks],
        "checked": None if row.checked is None else _checked_to_json(row.checked),
        # Beside the ports: the previous release does not know this key in them, but must find the row.
        "ports": [{"name": one.name, "number": one.number, "protocol": one.protocol} for one in row.ports],
        "alpn": [list(one.alpn) for one in row.ports],
    }
    if row.group is not None:
        fields["group"]["directory"] = row.group.directory.hex() if row.group.directory else ""
    if row.health is Health.STARTING:  # the previous release does not know this word, but must find the row
        fields["health"], fields["starting"] = Health.UNHEALTHY.value, True
    return json.dumps(fields, separators=(",", ":"), sort_keys=True)


def endpoint_from_json(text: str) -> LocalEndpointRow:
    """Parse such a row. Fields that a later release added are dropped. Raises ValueError for anything else."""
    try:
        fields: dict[str, Any] = json.loads(text)
        is_starting = fields.get("starting") is True
        stage = _stage_from_json(fields)
        known = {one.name for one in dataclasses.fields(LocalEndpointRow)}
        alpn = [tuple(one) for one in fields.get("alpn", ())]
        fields = {name: value for name, value in fields.items() if name in known}
        fields["stage"], fields["origin"] = stage, fields.get("origin") or None
        fields["health"] = Health.STARTING if is_starting else Health(fields.get("health", Health.UNKNOWN))
        fields["addresses"] = tuple(fields["addresses"])
        fields["aliases"] = tuple(fields["aliases"])
        fields["links"] = tuple(Link(**link) for link in fields["links"])
        # A release that does not know `alpn` may have rewritten the row.
        alpn = alpn if len(alpn) == len(fields["ports"]) else [()] * len(fields["ports"])
        fields["ports"] = tuple(
            Port(**port, alpn=spoken) for port, spoken in zip(fields["ports"], alpn, strict=True)
        )
        fields["labels"] = tuple((key, value) for key, value in fields["labels"])
        fields["publish"] = tuple(Publication(**one) for one in fields.get("publish", ()))
        fields["group"] = _group_from_json(fields.get("group"))
        fields["drain"] = Drain(**fields["drain"]) if fields.get("drain") else None
        fields["checks"] = tuple(map(_check_from_json, fields.get("checks", ())))
        checked = fields.get("checked")
        fields["checked"] = None if checked is None else _checked_from_json(checked)
        return LocalEndpointRow(**fields)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"not an endpoint row: {error}") from None


_KINDS: Final[dict[str, type[Subject]]] = {"http": HttpCheck, "tcp": TcpCheck, "exec": ExecCheck}


def _check_to_json(check: Check) -> dict[str, Any]:
    kind = next(kind for kind, one in _KINDS.items() if isinstance(check.subject, one))
    fields = dataclasses.asdict(check)
    return {**fields, "subject": {"kind": kind, **fields["subject"]}}


def _check_from_json(fields: dict[str, Any]) -> Check:
    subject = dict(fields["subject"])
    kind = _KINDS[subject.pop("kind")]
    if "command" in subject:
        subject["command"] = tuple(subject["command"])
    return Check(**{**fields, "subject": kind(**subject)})


def _checked_to_json(checked: CheckedHealth) -> dict[str, Any]:
    return {"health": checked.health.value, **dataclasses.asdict(checked.note)}


def _checked_from_json(fields: dict[str, Any]) -> CheckedHealth:
    return CheckedHealth(Health(fields["health"]), HealthNote(fields["since_s"], fields["reason"]))


def _group_from_json(fields: dict[str, Any] | None) -> Group | None:
    if fields is None:
        return None
    return Group(fields["name"], fields["service"], bytes.fromhex(fields["directory"]) or None)


def _stage_from_json(fields: dict[str, Any]) -> Stage:
    is_published = {"reserved": False, "published": True}[fields["stage"]]
    if not fields["netns_inode"]:
        return Reserved()
    identity, is_behind = (fields["netns_dev"], fields["netns_inode"]), fields.get("behind_runtime", False)
    netns = Netns(fields["netns_path"], identity, fields["boot_id"], behind_runtime=is_behind)
    ifname = fields["ifname"]
    return Published(netns, ifname) if is_published else Bound(netns, ifname or None)
