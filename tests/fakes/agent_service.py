"""The handlers of an agent that lives in memory, and a thread that serves them on a real unix socket."""

from __future__ import annotations

import contextlib
import functools
import inspect
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, get_type_hints

import trio

from netagent.access.grant import FULL, Grant
from netagent.control.addition_parsing import own_name_request, service_request
from netagent.control.api import Handlers, build_app, socket_access
from netagent.control.request_parsing import (
    attach_request,
    link_of,
    network_changes,
    network_request,
    publication_of,
)
from netagent.control.server import serve
from netagent.control.service_parsing import service_address_change, service_address_request
from netagent.errors import InputError, NotFoundError, RefusedError
from netagent.interface import schema
from netagent.interface.additions import (
    NameAddCommand,
    NameListCommand,
    NameRemoveCommand,
    ServiceAddCommand,
)
from netagent.interface.cluster import (
    ForgetCommand,
    InitCommand,
    InviteCommand,
    JoinCommand,
    LeaveCommand,
    MembersCommand,
    RevokeCommand,
    UninviteCommand,
    WithdrawCommand,
)
from netagent.interface.command import Command
from netagent.interface.containers import (
    AttachCommand,
    CheckCommand,
    DetachCommand,
    DrainCommand,
    LinkCommand,
    NetworkConnectCommand,
    NetworkCreateCommand,
    NetworkDisconnectCommand,
    NetworkInspectCommand,
    NetworkListCommand,
    NetworkPruneCommand,
    NetworkRemoveCommand,
    NetworkSetCommand,
    PublishCommand,
    PublishServiceCommand,
    UndrainCommand,
    UnlinkCommand,
    UnpublishCommand,
    UnpublishServiceCommand,
)
from netagent.interface.description import ApplyCommand, ExportCommand
from netagent.interface.encryption import EncryptOffCommand, EncryptOnCommand, EncryptStatusCommand
from netagent.interface.questions import (
    FEED_NAMES,
    DashboardCommand,
    DoctorCommand,
    EndpointsCommand,
    EventsCommand,
    FeedCommand,
    FlowsCommand,
    InspectCommand,
    LookupCommand,
    PingCommand,
    PolicySuggestCommand,
    ServicesCommand,
    StatusCommand,
    VersionCommand,
)
from netagent.interface.ring_keys import (
    KeysInstallCommand,
    KeysListCommand,
    KeysRemoveCommand,
    KeysRotateCommand,
    KeysUseCommand,
)
from netagent.interface.services import (
    ServiceCreateCommand,
    ServiceInspectCommand,
    ServiceRemoveCommand,
    ServiceSetCommand,
)
from netagent.interface.tokens import TokenCreateCommand, TokenListCommand, TokenRevokeCommand
from netagent.model.author import current_author
from netagent.model.request import AttachRequest, NetworkRequest

CLUSTER: schema.ClusterPart = {"id": "c1" * 16, "name": "mesh", "domain": "mesh.internal"}


def network_of(name: str, number: int = 0) -> schema.Network:
    return {
        "id": f"{number:02x}" * 16,
        "name": name,
        "subnets": [f"10.160.{16 * number}.0/20"],
        "gateways": [f"10.160.{16 * number}.1"],
        "domain": f"{name}.mesh.internal",
        "vni": 8388608 + number,
        "mtu_bytes": 1450,
        "internal": False,
        "policy": "open",
        "multicast": False,
        "host_access": False,
        "feed_rules": [],
        "feed_labels": True,
        "shared_names": "answer",
        "service_addresses": "off",
        "egress": "open",
        "host_addresses": [],
        "created_by": "h1",
        "revision": 0,
        "attached": True,
        "endpoint_count": 0,
        "hosts": ["h1"],
        "clash": "",
        "published": [],
        "use": use_of(),
    }


def use_of() -> schema.SpaceUse:
    """A /20 of three hosts, one of which is dead."""
    held: list[tuple[str, schema.AgentWord, int, int, str]] = [
        ("h1", "alive", 2046, 12, "10.160.0.2 - 10.160.7.255"),
        ("h2", "dead", 1024, 3, "10.160.8.0 - 10.160.11.255"),
        ("h3", "alive", 1023, 0, "10.160.12.0 - 10.160.15.254"),
    ]
    owners: list[schema.SpaceShare] = [
        {
            "host": host,
            "host_id": host[1:] * 32,
            "agent": agent,
            "owned": owned,
            "used": used,
            "free": owned - used,
            "ranges": [where],
        }
        for host, agent, owned, used, where in held
    ]
    return {"total": 4093, "used": 15, "free": 4078, "away": 1021, "unowned": 0, "owners": owners}


def endpoint_of(name: str, *, number: int = 1, network: str = "app", host: str = "h1") -> schema.Endpoint:
    return {
        "id": f"{number:02x}" * 16,
        "name": name,
        "service": name,
        "network": network,
        "network_id": "00" * 16,
        "host": host,
        "host_id": "aa" * 16,
        "addresses": [f"10.160.0.{number + 1}", f"fd00::{number + 1}"],
        "mac": f"02:00:00:00:00:{number:02x}",
        "aliases": [],
        "ports": [],
        "labels": {},
        "health": "unknown",
        "state": "up",
        "reason": "",
        "names": [f"{name}.{network}.mesh.internal"],
        "version": f"1.{number}",
        "local": host == "h1",
        "source": "own" if host == "h1" else "replicated",
        "told_by": [],
        "container_id": "",
        "compose_project": "",
        "compose_service": "",
        "target": f"netns:{name}",
        "ifname": "eth0",
        "links": [],
        "published": [],
    }


def why_of(*, missing: bool = False) -> schema.Why:
    wrong: schema.WhyObject = {
        "kind": "tunnel entry",
        "thing": "02:00:00:00:00:02 at 192.0.2.2 by nx-8388608",
        "state": "missing" if missing else "present",
        "reason": "",
        "fix": "bridge fdb replace 02:00:00:00:00:02 dev nx-8388608 dst 192.0.2.2 self" if missing else "",
    }
    return {
        "complete": not missing,
        "records": [
            {
                "kind": "endpoint",
                "name": "web",
                "host": "h2",
                "host_id": "bb" * 16,
                "epoch": 3,
                "sequence": 17,
            }
        ],
        "objects": [wrong],
        "left_out": 0,
    }


def doctor_of(*, failed: bool = False) -> schema.Doctor:
    finding: schema.CheckFinding = {
        "thing": "neighbour 10.160.0.3 on na-8388608",
        "message": "neighbour 10.160.0.3 on na-8388608 is missing (web on h2)",
        "fix": "ip neigh replace 10.160.0.3 lladdr 02:00:00:00:00:02 dev na-8388608 nud permanent",
        "severity": "failed",
    }
    return {
        "healthy": not failed,
        "agent": "answers",
        "host": [
            {
                "name": "ports",
                "says": "no other program uses netagent's ports",
                "verdict": "passed",
                "note": "",
                "findings": [],
                "left_out": 0,
            }
        ],
        "intent": [
            {
                "name": "neighbours",
                "says": "each address of a network maps to its MAC",
                "verdict": "failed" if failed else "passed",
                "note": "",
                "findings": [finding] if failed else [],
                "left_out": 7 if failed else 0,
            }
        ],
        "cluster": [
            {
                "name": "agents",
                "says": "the agents of all hosts answer",
                "verdict": "passed",
                "note": "",
                "findings": [],
                "left_out": 0,
            }
        ],
        "absent": "",
        "looked_at": {"networks": 1, "containers": 2, "devices": 5, "entries": 9, "questions": 4},
    }


def pong(lost_at: str = "") -> schema.Ping:
    """An answer to `ping web db`; with `lost_at` nothing came back, for that layer's sake."""
    rtt_s = None if lost_at else 0.0005
    return {
        "from": "web",
        "to": "db",
        "host": "h2",
        "reached": not lost_at,
        "lost_at": lost_at,
        "says": "no reply from 10.160.0.3" if lost_at else "db answers",
        "results": [
            {
                "address": "10.160.0.3",
                "port": None,
                "size_bytes": size,
                "sent": 3,
                "received": 0 if lost_at else 3,
                "loss_percent": 100.0 if lost_at else 0.0,
                "rtt_min_s": rtt_s,
                "rtt_avg_s": rtt_s,
                "rtt_max_s": rtt_s,
                "trouble": "no answer" if lost_at else "",
            }
            for size in (84, 1450)
        ],
        "trace": [
            {
                "layer": "path",
                "thing": "VXLAN to h2 at 192.0.2.2",
                "ok": not lost_at,
                "says": "down" if lost_at else "ok",
                "fix": "let UDP port 4799 pass" if lost_at else "",
            }
        ],
    }


def service_of(row: schema.Endpoint) -> schema.Service:
    return {
        "id": f"{row['service']}.{row['network']}",
        "name": row["service"],
        "network": row["network"],
        "network_id": row["network_id"],
        "fqdn": row["names"][0],
        "endpoint_count": 1,
        "answering": 1,
        "addresses": row["addresses"],
        "hosts": [row["host"]],
        "ports": row["ports"],
        "aliases": row["aliases"],
        "source": row["source"],
        "told_by": row["told_by"],
    }


def own_name_of(name: str) -> schema.OwnName:
    return {
        "id": "0d" * 16,
        "name": f"{name}.app",
        "network": "app",
        "network_id": "00" * 16,
        "fqdn": f"{name}.app.mesh.internal",
        "cname": "web.app.mesh.internal",
        "addresses": [],
        "texts": [],
        "owner": "h1",
        "owner_id": "aa" * 16,
        "added_at": "2026-12-01T22:13:00Z",
        "added_by": "root",
        "state": "up",
        "reason": "",
    }


def flow_of(source: str, target: str) -> schema.Flow:
    return {
        "id": "ab" * 6 + ">10.160.0.3/tcp:5432",
        "from": source,
        "from_id": "ab" * 16,
        "from_kind": "endpoint",
        "from_gone": False,
        "from_service": "web",
        "from_host": "h1",
        "network": "app",
        "network_id": "00" * 16,
        "to": target,
        "to_id": "cd" * 16,
        "to_service": "db",
        "to_host": "h2",
        "to_kind": "endpoint",
        "to_gone": False,
        "address": "10.160.0.3",
        "protocol": "tcp",
        "port": 5432,
        "openings": 12_345,
        "refused": 0,
        "linked": None,
        "first_at": "2026-12-01T22:13:00Z",
        "last_at": "2026-12-01T22:14:00Z",
    }


def external_of(name: str) -> schema.Service:
    part: schema.ExternalPart = {
        "id": "5e" * 16,
        "owner": "h1",
        "owner_id": "aa" * 16,
        "kind": "address",
        "dns_name": "",
        "ports": [],
        "weight": 1,
        "checks": [],
        "ttl_s": None,
        "added_at": "2026-12-01T22:13:00Z",
        "added_by": "root",
        "asked_by": "",
        "addresses": [{"address": "192.0.2.50", "port": 5432, "state": "up", "since": "", "reason": ""}],
        "reason": "",
        "shadowed_by": "",
    }
    return {
        "id": f"{name}.app",
        "name": name,
        "network": "app",
        "network_id": "00" * 16,
        "fqdn": f"{name}.app.mesh.internal",
        "endpoint_count": 1,
        "answering": 1,
        "unreached": 0,
        "drained": 0,
        "addresses": ["192.0.2.50"],
        "hosts": ["h1"],
        "ports": [],
        "aliases": [],
        "source": "own",
        "told_by": [],
        "external": [part],
    }


def published_service(
    request: PublishServiceCommand | UnpublishServiceCommand, *, created: bool
) -> schema.PublishedService:
    return {
        "name": request.service,
        "network": "app",
        "group": request.group,
        "port": publication_of(request.port).text,
        "created": created,
        "replicas": 0,
    }


def service_address_of(**fields: Any) -> schema.ServiceAddress:
    usual: schema.ServiceAddress = {
        "addresses": ["10.172.0.9", "fd00:9::9"],
        "owner": "h1",
        "owner_id": "aa" * 16,
        "origin": "operator",
        "ports": [{"number": 80, "target": 8080}],
        "balance": "nearest",
        "host_weights": {},
        "sticky": False,
        "all_failing": "hide",
        "keep_connections": False,
        "in_names": True,
        "backends": [backend_of("web1", "h1", 43), backend_of("web2", "h2", 21, 0.0003)],
    }
    return {**usual, **fields}  # type: ignore[typeddict-item] # a test's fields are those


def backend_of(name: str, host: str, places: int | None, rtt_s: float | None = None) -> schema.Backend:
    return {
        "id": "e1" * 16,
        "name": name,
        "host": host,
        "host_id": "aa" * 16,
        "addresses": ["10.160.0.2"],
        "weight": 100,
        "places": places,
        "rtt_s": rtt_s,
    }


def addressed_of(name: str, group: str = "", **fields: Any) -> schema.Service:
    key = f"{name}.{group}" if group else name
    return {
        "id": f"{key}.app",
        "name": name,
        "group": group,
        "network": "app",
        "network_id": "00" * 16,
        "fqdn": f"{key}.app.mesh.internal",
        "endpoint_count": 2,
        "answering": 2,
        "addresses": ["10.160.0.2", "10.160.0.3"],
        "hosts": ["h1", "h2"],
        "ports": [],
        "aliases": [],
        "source": "own",
        "told_by": [],
        "service_addresses": [service_address_of(**fields)],
    }


def event_of(number: int, text: str, *, level: Literal["info", "warning"] = "info") -> schema.Event:
    return {
        "id": f"aaaaaaaa-{number}",
        "number": number,
        "happened_at": f"2030-01-01T00:00:{number:02}.250Z",
        "host": "h1",
        "host_id": "aa" * 16,
        "kind": "attach",
        "level": level,
        "subject": "web",
        "text": text,
        "author": {"kind": "user", "name": "alice", "uid": 1000, "program": "netagent"},
    }


def encryption_of(state: str) -> schema.Encryption:
    path: schema.EncryptionPath = {
        "host": "h2",
        "host_id": "bb" * 16,
        "state": "encrypted" if state == "on" else "clear",
        "stage": "fenced" if state == "on" else "clear",
        "endpoint": "192.0.2.2:7955",
        "handshake_s": 12.0,
        "received_bytes": 4096,
        "sent_bytes": 8192,
    }
    return {
        "state": state,
        "stage": path["stage"],
        "changed_by": "root",
        "changed_on": "h1",
        "changed_at": "2026-01-01T00:00:00Z",
        "backend": "wireguard-go",
        "key_age_s": 10_800.0,
        "encrypted": int(state == "on"),
        "paths": [path],
        "waiting": [],
        "away": [],
        "large_networks": [{"name": "app", "mtu_bytes": 1450, "passes_bytes": 1370}],
        "warnings": [],
    }


def token_of(name: str) -> schema.TokenInfo:
    return {
        "id": "00000001",
        "name": name,
        "role": "read",
        "networks": [],
        "is_limited": False,
        "created_at": "2026-01-01T00:00:00Z",
        "created_by": "root",
        "expires_at": "",
        "used_at": "",
    }


class FakeService:
    """Networks and endpoints in dicts; what a test wants to see or to go wrong is an attribute."""

    def __init__(self) -> None:
        self.networks: dict[str, schema.Network] = {"app": network_of("app")}
        self.rows: list[schema.Endpoint] = []
        self.feed_networks = ["app"]
        self.cluster: schema.ClusterPart | None = CLUSTER
        self.heard: list[schema.HeardAgent] = []
        self.attached: list[AttachRequest] = []
        self.created: list[NetworkRequest] = []
        self.joined: list[tuple[list[str], str]] = []
        self.failure: Exception | None = None
        self.why = why_of()
        self.diagnosis = doctor_of()
        self.pings: list[dict[str, object]] = []
        self.filters: list[EndpointsCommand | ServicesCommand] = []
        self.unknown: list[schema.Notice] = []
        self.pong = pong()
        self.noted: list[schema.Event] = [event_of(1, "attached web (netns:web) to app: 10.160.0.2")]
        self.described_tokens: list[str] = []
        self.problems: list[schema.ApplyProblem] = []
        """What `apply` finds wrong with each file."""
        self.waiting = 0
        self._generation = 0
        self._changed = trio.Event()

    def handlers(self) -> Handlers:
        """The methods as they are at each request, by the command that their argument is annotated with."""

        def by_name(name: str) -> Callable[[Any], Any]:
            async def answer(request: Any) -> Any:
                return await getattr(self, name)(request)

            return answer

        methods = {name: one for name, one in vars(FakeService).items() if inspect.iscoroutinefunction(one)}
        kinds = {name: next(iter(get_type_hints(one).values())) for name, one in methods.items()}
        return {kind: by_name(name) for name, kind in kinds.items() if issubclass(kind, Command)}

    def change(self) -> None:
        self._generation += 1
        self._changed.set()
        self._changed = trio.Event()

    async def wait_changed(self, seen: int) -> int:
        self.waiting += 1
        try:
            while self._generation == seen:
                await self._changed.wait()
            return self._generation
        finally:
            self.waiting -= 1

    async def export(self, request: ExportCommand) -> schema.Export:
        keys = schema.DescribedNetwork.__annotations__
        networks: Any = [
            {"answer_order": "spread", **{key: one[key] for key in keys if key in one}}  # type: ignore[literal-required]
            for one in self.networks.values()
        ]
        tokens: list[schema.DescribedToken] = [
            {"name": one, "role": "read", "networks": [], "ttl_s": None} for one in self.described_tokens
        ]
        return {
            "networks": networks,
            "services": [],
            "service_addresses": [],
            "names": [],
            "published": [],
            "tokens": tokens if request.tokens else [],
            "left_out": [],
        }

    async def apply(self, request: ApplyCommand) -> schema.Applied:
        """Makes the networks and tokens that are missing."""
        tokens = [one.name for one in request.tokens if one.name not in self.described_tokens]
        missing = [one.name for one in request.networks if one.name not in self.networks]
        if not request.dry_run:
            self.networks |= {name: network_of(name, len(self.networks)) for name in missing}
            self.described_tokens += tokens
        given = {one.name for one in request.networks}
        return {
            "changes": [
                {"sign": "+", "thing": thing, "what": "with the defaults"}
                for thing in [*(f"network {one}" for one in missing), *(f"token {one}" for one in tokens)]
            ],
            "applied": not request.dry_run,
            "unmentioned": [f"network {name}" for name in self.networks if name not in given],
            "tokens": [
                {"name": one, "token": "" if request.dry_run else f"netagent_{one}_secret"} for one in tokens
            ],
            "problems": self.problems,
        }

    async def service_add(self, request: ServiceAddCommand) -> schema.ServiceAdded:
        wanted = service_request(request, CLUSTER["domain"])
        return {**external_of(wanted.name), "created": True, "warnings": []}

    async def service_create(self, request: ServiceCreateCommand) -> schema.ServiceCreated:
        wanted = service_address_request(request)
        if request.network not in self.networks:
            raise NotFoundError(f"there is no network {request.network!r}", thing=request.network)
        ports = [{"number": port.number, "target": port.target} for port in wanted.ports]
        found = addressed_of(wanted.service.name, wanted.service.group or "", ports=ports)
        return {**found, "created": True, "warnings": []}

    async def service_set(self, request: ServiceSetCommand) -> schema.ServiceCreated:
        wanted = service_address_change(request)
        balance = "spread" if wanted.balance is None else wanted.balance.value
        return {**addressed_of(request.service, balance=balance), "created": False, "warnings": []}

    async def service_inspect(self, request: ServiceInspectCommand) -> schema.ServiceDescription:
        other: schema.NoBackend = {"name": "web3", "host": "h3", "reason": "unhealthy: http 503"}
        return {**addressed_of(request.service), "no_backends": [other], "warnings": []}

    async def service_remove(self, request: ServiceRemoveCommand) -> schema.ServiceRemoved:
        return {"name": request.service, "network": "app", "removed": 1, "addresses": ["10.172.0.9"]}

    async def service_publish(self, request: PublishServiceCommand) -> schema.PublishedService:
        return published_service(request, created=True)

    async def service_withdraw(self, request: UnpublishServiceCommand) -> schema.PublishedService:
        return published_service(request, created=False)

    async def name_add(self, request: NameAddCommand) -> schema.OwnName:
        wanted = own_name_request(request, request.name.rpartition(".")[0])
        return {**own_name_of(wanted.name), "created": True}

    async def name_list(self, request: NameListCommand) -> schema.Listing[schema.OwnName]:
        return {"items": [own_name_of("shop")]}

    async def token_create(self, request: TokenCreateCommand) -> schema.TokenCreated:
        return {**token_of(request.name), "token": "netagent_00000001_" + "5" * 64}

    async def token_list(self, request: TokenListCommand) -> schema.Listing[schema.TokenInfo]:
        removed: schema.TokenNetwork = {"id": "b" * 32, "name": "old", "exists": False}
        limited: schema.TokenInfo = {**token_of("ci"), "networks": [removed], "is_limited": True}
        return {"items": [token_of("grafana"), limited]}

    async def keys_list(self, request: KeysListCommand) -> schema.Listing[schema.RingKeyInfo]:
        key: schema.RingKeyInfo = {
            "id": "c" * 32,
            "state": "primary",
            "number": 3,
            "age_s": 86400.0,
            "lacking": [],
            "away": ["h3"],
        }
        return {"items": [key]}

    async def keys_rotate(self, request: KeysRotateCommand) -> schema.RingKeyRotated:
        return {"id": "d" * 32, "in_use": request.wait, "hosts": 1, "lacking": ["h2"], "warnings": []}

    async def keys_install(self, request: KeysInstallCommand) -> schema.RingKeyInstalled:
        return {
            "id": "d" * 32,
            "created": not request.key,
            "hosts": 1,
            "lacking": [] if request.wait else ["h2"],
            "warnings": [],
        }

    async def keys_use(self, request: KeysUseCommand) -> schema.RingKeyUsed:
        return {"id": request.key, "changed": True, "in_use": request.wait, "hosts": 2, "warnings": []}

    async def keys_remove(self, request: KeysRemoveCommand) -> schema.RingKeyRemoved:
        away = ["h3"] if request.force else []
        return {"id": request.key, "changed": True, "hosts": ["h2"], "away": away, "warnings": []}

    async def encrypt_on(self, request: EncryptOnCommand) -> schema.Encryption:
        return encryption_of("on")

    async def encrypt_off(self, request: EncryptOffCommand) -> schema.Encryption:
        return encryption_of("off")

    async def encrypt_status(self, request: EncryptStatusCommand) -> schema.Encryption:
        return encryption_of("on")

    async def token_revoke(self, request: TokenRevokeCommand) -> schema.TokenRevoked:
        return {"id": "00000001", "name": request.token}

    async def name_remove(self, request: NameRemoveCommand) -> schema.OwnNameRemoved:
        return {"name": request.name, "network": "app"}

    async def events(self, request: EventsCommand) -> schema.Listing[schema.Event]:
        after = request.seen.get("aa" * 16, 0)
        return {"items": [one for one in self.noted if one["number"] > after]}

    async def status(self, request: StatusCommand) -> schema.Status:
        if self.failure:
            raise self.failure
        return {
            "host": {
                "id": "aa" * 16,
                "name": "h1",
                "address": "192.0.2.1",
                "zone": "",
                "version": "0.1.0",
                "uptime_s": 180.0,
            },
            "cluster": self.cluster,
            "members": {"alive": 2, "dead": 1},
            "networks": ["app"],
            "network_count": 2,
            "endpoints": {"local": 1, "total": 3, "hidden": 1},
            "dns": {"running": True, "sandboxes": 1, "queries": 1234},
            "drift": {
                "differences": 0,
                "checked_s": 3.0,
                "repaired": 2,
                "kinds": {"device-down": 1, "entry-altered": 1},
            },
            "paths": {"ok": 1, "down": 1},
            "data_plane": "not encrypted",
            "refused": {"label": 12},
            "warnings": [{"code": "host-dead", "message": "h3 is dead", "cure": "netagent members"}],
            "heard": self.heard,
        }

    async def init(self, request: InitCommand) -> schema.Initialised:
        return {"cluster": {**CLUSTER, "name": request.cluster or "mesh"}, "created": True}

    async def invite(self, request: InviteCommand) -> schema.Invitation:
        return {
            "id": "0a1b2c3d4e5f6071",
            "token": "tok-secret",
            "ttl_s": request.ttl_s,
            "uses": request.uses,
            "expires_at": "2030-01-01T00:00:00Z",
        }

    async def uninvite(self, request: UninviteCommand) -> schema.Uninvited:
        return {"revoked": 0 if request.invitation else 2}

    async def join(self, request: JoinCommand) -> schema.Joined:
        self.joined.append((list(request.addresses), request.token))
        return {"cluster": CLUSTER, "via": "192.0.2.1", "members": 3}

    async def leave(self, request: LeaveCommand) -> schema.Left:
        return {"cluster": CLUSTER, "detached": 1}

    async def forget(self, request: ForgetCommand) -> schema.ForgetAnswer:
        names = list(request.hosts) or (["h8", "h9"] if request.dead_for_s < 1000 else [])
        shown: list[schema.ForgottenHost] = [
            {"id": "09" * 16, "name": name, "address": "192.0.2.9"} for name in names
        ]
        return {"hosts": shown, "addresses": 32 * len(names), "unheard": ["h2"] if request.force else []}

    async def revoke(self, request: RevokeCommand) -> schema.RevokeAnswer:
        shown: list[schema.ForgottenHost] = [
            {"id": "09" * 16, "name": name, "address": "192.0.2.9"} for name in request.hosts
        ]
        return {"hosts": shown, "addresses": 32 * len(shown), "unheard": []}

    async def withdraw(self, request: WithdrawCommand) -> schema.WithdrawAnswer:
        return {"name": "h1", "told": 2}

    async def members(self, request: MembersCommand) -> schema.Listing[schema.MemberInfo]:
        def member(name: str, number: int) -> schema.MemberInfo:
            return {
                "id": f"{number:02x}" * 16,
                "name": name,
                "address": f"192.0.2.{number}",
                "agent": "alive",
                "host": "answers",
                "version": "0.1.0",
                "zone": "",
                "rtt_s": 0.0004 if number > 1 else None,
                "path": "ok" if number > 1 else "local",
                "path_mtu_bytes": 1450 if number > 1 else None,
                "loss_percent": None,
                "local": number == 1,
            }

        return {"items": [member("h2", 2), member("h1", 1)]}

    async def network_create(self, asked: NetworkCreateCommand) -> schema.Network:
        request = network_request(asked)
        self.created.append(request)
        known = self.networks.get(request.name)
        if known and request.subnets:
            raise RefusedError(
                f"network {request.name!r} exists with other subnets",
                thing=request.name,
                hint="choose another name",
            )
        self.networks.setdefault(request.name, network_of(request.name, len(self.networks)))
        return {**self.networks[request.name], "created": known is None}

    async def network_set(self, asked: NetworkSetCommand) -> schema.ChangedNetwork:
        found: dict[str, Any] = dict(self._network(asked.network))
        wanted = {option.value: value for option, value in network_changes(asked).items()}
        former = {option: found.get(option, "") for option in wanted}
        found |= wanted
        self.networks[found["name"]] = found  # type: ignore[assignment] # option by option
        changed = [{"option": one, "value": wanted[one], "former": former[one]} for one in wanted]
        found |= {"changed": [one for one in changed if one["value"] != one["former"]], "unheard": []}
        return found  # type: ignore[return-value] # as above

    async def network_list(self, request: NetworkListCommand) -> schema.Listing[schema.Network]:
        return {"items": list(reversed(self.networks.values()))}

    async def network_inspect(self, request: NetworkInspectCommand) -> schema.Network:
        found = self._network(request.network)
        return {**found, "space": {"owned": 1024, "used": 3, "free": 1020, "cooling": 1}}

    async def network_remove(self, request: NetworkRemoveCommand) -> schema.NetworkRemoved:
        network = request.network
        found = self._network(network)
        if self.rows and not request.force:
            raise RefusedError(
                f"network {network!r} has endpoints", thing=network, hint="detach them or use --force"
            )
        del self.networks[network]
        return {"id": found["id"], "name": found["name"], "detached": len(self.rows)}

    async def network_prune(self, request: NetworkPruneCommand) -> schema.Listing[schema.NetworkRemoved]:
        unused = [] if self.rows else list(self.networks.values())
        for network in unused:
            del self.networks[network["name"]]
        return {"items": [{"id": one["id"], "name": one["name"], "detached": 0} for one in unused]}

    async def network_connect(self, request: NetworkConnectCommand) -> schema.Endpoint:
        self._network(request.network)
        name = request.target.rpartition(":")[2]
        return {**endpoint_of(name, network=request.network), "created": True}

    async def network_disconnect(self, request: NetworkDisconnectCommand) -> schema.Detached:
        return {"id": "01" * 16, "name": request.target.rpartition(":")[2], "network": request.network}

    async def attach(self, asked: AttachCommand) -> schema.Endpoint:
        request = attach_request(asked)
        self._network(request.network)
        self.attached.append(request)
        row = endpoint_of(request.name or request.target.rpartition(":")[2], number=len(self.rows) + 1)
        self.rows.append(row)
        self.change()
        return {**row, "created": True}

    async def detach(self, request: DetachCommand) -> schema.Detached:
        row = self._endpoint(request.endpoint)
        self.rows.remove(row)
        self.change()
        return {"id": row["id"], "name": row["name"], "network": row["network"]}

    async def drain(self, request: DrainCommand) -> schema.Drained:
        return self._drained(
            request, {"since": "2030-01-01T00:00:00Z", "by": current_author().account}, request.wait_s
        )

    async def check(self, request: CheckCommand) -> schema.CheckAnswer:
        shown = self._endpoint(request.endpoint)
        result: schema.CheckResult = {
            "check": "http:8080/healthz",
            "ok": True,
            "says": "http 200 from 8080/healthz",
            "shown": "ready",
            "took_s": 0.012,
        }
        return {
            "endpoints": [
                {
                    "id": shown["id"],
                    "name": shown["name"],
                    "network": shown["network"],
                    "state": "up",
                    "reason": "",
                    "results": [result],
                }
            ],
            "healthy": True,
        }

    async def undrain(self, request: UndrainCommand) -> schema.Drained:
        return self._drained(request, None, None)

    def _drained(
        self, request: DrainCommand | UndrainCommand, drain: schema.DrainPart | None, wait_s: float | None
    ) -> schema.Drained:
        row = None if request.host else self._endpoint(request.endpoint)
        return {
            "name": "h1" if row is None else row["name"],
            "network": "" if row is None else row["network"],
            "endpoint_count": len(self.rows) if row is None else 1,
            "drain": drain,
            "idle": None if wait_s is None else wait_s > 0,
        }

    async def link(self, request: LinkCommand) -> schema.Endpoint:
        row, link = self._endpoint(request.endpoint), link_of(request)
        row["links"].append({"service": link.service, "alias": link.alias})
        return row

    async def publish(self, request: PublishCommand) -> schema.Endpoint:
        row, publication = self._endpoint(request.endpoint), publication_of(request.port)
        row["published"].append(publication.text)
        return row

    async def unpublish(self, request: UnpublishCommand) -> schema.Endpoint:
        row, publication = self._endpoint(request.endpoint), publication_of(request.port)
        row["published"] = [text for text in row["published"] if text != publication.text]
        return row

    async def unlink(self, request: UnlinkCommand) -> schema.Endpoint:
        row, link = self._endpoint(request.endpoint), link_of(request)
        found: schema.LinkPart = {"service": link.service, "alias": link.alias}
        if found not in row["links"]:
            raise NotFoundError(f"{row['name']} has no link {link.alias!r}", thing=link.alias)
        row["links"].remove(found)
        return row

    async def endpoints(self, request: EndpointsCommand) -> schema.Listing[schema.Endpoint]:
        self.filters.append(request)
        return {"items": self._filtered(request.network, request.service), "warnings": self._gaps(request)}

    async def flows(self, request: FlowsCommand) -> schema.Listing[schema.Flow]:
        return {"items": [flow_of("web1", "db1")], "warnings": []}

    async def policy_suggest(self, request: PolicySuggestCommand) -> schema.PolicySuggestion:
        self._network(request.network)
        link: schema.SuggestedLink = {
            "from": "web1",
            "from_id": "ab" * 16,
            "from_host": "h1",
            "to": "db",
            "ports": ["5432/tcp"],
            "openings": 1204,
            "also": 0,
            "command": f"sudo netagent link web1.{request.network} db",
        }
        return {
            "network": request.network,
            "network_id": "00" * 16,
            "policy": "open",
            "seen": 3,
            "covered": 1,
            "links": [link],
            "unused": [{"from": "web1", "from_id": "ab" * 16, "from_host": "h1", "link": "cache"}],
            "not_covered": 1,
            "warnings": [],
        }

    async def services(self, request: ServicesCommand) -> schema.Listing[schema.Service]:
        self.filters.append(request)
        rows = self._filtered(request.network, request.service)
        return {"items": [service_of(row) for row in rows], "warnings": self._gaps(request)}

    def _filtered(self, network: str, service: str) -> list[schema.Endpoint]:
        if network:
            self._network(network)
        return [row for row in self.rows if service in ("", row["service"])]

    def _gaps(self, request: EndpointsCommand | ServicesCommand | InspectCommand) -> list[schema.Notice]:
        return [] if request.local else list(self.unknown)

    async def inspect(self, request: InspectCommand) -> schema.Inspection:
        rows, thing = self._filtered("", request.thing), request.thing
        if not rows:
            raise NotFoundError(f"nothing is called {thing!r}", thing=thing, hint="see `netagent endpoints`")
        found: schema.Inspection = {
            **service_of(rows[0]),
            "kind": "service",
            "endpoints": list(self.rows),
            "warnings": self._gaps(request),
        }
        if request.why:
            found["why"] = self.why
        return found

    async def doctor(self, request: DoctorCommand) -> schema.Doctor:
        return self.diagnosis

    async def ping(self, request: PingCommand) -> schema.Ping:
        asked = {
            "from": request.from_endpoint,
            "to": request.to,
            "count": request.count,
            "trace": request.trace,
        }
        self.pings.append(asked)
        return self.pong

    async def lookup(self, request: LookupCommand) -> schema.Lookup:
        rows = [row for row in self.rows if row["names"][0].startswith(f"{request.name}.")]
        return {
            "name": f"{request.name}.app.mesh.internal",
            "type": request.type.upper(),
            "status": "NOERROR" if rows else "NXDOMAIN",
            "answers": [
                {"name": row["names"][0], "type": "A", "ttl_s": 5, "data": row["addresses"][0]}
                for row in rows
            ],
            "asked_for": request.from_endpoint,
            "reason": "service of 1 endpoint" if rows else "network app has no such name",
            "servers": [],
        }

    async def feed(self, request: FeedCommand) -> schema.Feed:
        if request.feed not in FEED_NAMES:
            raise NotFoundError(f"there is no feed {request.feed!r}", thing=request.feed)
        content = {"items": [row["names"][0] for row in self.rows]}
        tag = str(hash(str([content, self.feed_networks])))
        if tag == request.known:
            await trio.sleep(0.05)
        return {
            "feed": request.feed,
            "networks": list(self.feed_networks),
            "tag": tag,
            "content": content,
            "warnings": [],
        }

    async def dashboard(self, request: DashboardCommand) -> schema.Dashboard:
        return {
            "url": "http://127.0.0.1:7958/page/#key=1-2",
            "expires_at": "2026-12-02T10:00:00Z",
            "warnings": [],
        }

    async def version(self, request: VersionCommand) -> schema.AgentVersion:
        return {"version": "0.1.0", "python": "3.13.5", "kernel": "6.12.0"}

    def _network(self, name: str) -> schema.Network:
        if name not in self.networks:
            raise NotFoundError(
                f"there is no network {name!r}", thing=name, hint="`netagent network ls` shows all"
            )
        return self.networks[name]

    def _endpoint(self, name: str) -> schema.Endpoint:
        rows = [row for row in self.rows if name in (row["name"], row["id"])]
        if not rows:
            raise NotFoundError(
                f"there is no endpoint {name!r}", thing=name, hint="`netagent endpoints` shows all"
            )
        if len(rows) > 1:
            ids = ", ".join(row["id"] for row in rows)
            raise InputError(
                f"{name!r} is the name of several endpoints: {ids}", thing=name, hint="use an id"
            )
        return rows[0]


class Served:
    """A FakeService behind the real server. `do` runs something in the server's loop and waits for it."""

    def __init__(
        self,
        path: Path,
        listener: socket.socket | None = None,
        grant: Grant = FULL,
        *,
        is_bounded: bool = False,
    ) -> None:
        self.path = path
        self.grant = grant
        self.is_bounded = is_bounded
        self.listener = listener
        self.service = FakeService()
        self.shutdown = trio.Event()
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        async def main() -> None:
            self._token = trio.lowlevel.current_trio_token()
            async with trio.open_nursery() as nursery:
                serving = functools.partial(serve, listener=self.listener, is_bounded=self.is_bounded)
                await nursery.start(
                    serving,
                    build_app(
                        self.service.handlers(), self.service.wait_changed, access=socket_access(self.grant)
                    ),
                    self.path,
                    "netagent",
                    self.shutdown,
                )
                self._ready.set()

        try:
            trio.run(main)
        except BaseException as error:  # shown to the test by `start` or `stop`
            self._failure = error
        self._ready.set()

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(10)
        if self._failure:
            raise self._failure

    def stop(self) -> None:
        if self._thread.is_alive():
            self._token.run_sync_soon(self.shutdown.set)
        self._thread.join(10)
        assert not self._thread.is_alive(), "the server does not stop"
        if self._failure:
            raise self._failure

    def change(self) -> None:
        trio.from_thread.run_sync(self.service.change, trio_token=self._token)


@contextlib.contextmanager
def served(
    path: Path, listener: socket.socket | None = None, grant: Grant = FULL, *, is_bounded: bool = False
) -> Iterator[Served]:
    """Serving at `path`, on `listener` if there is one, for as long as the block runs."""
    server = Served(path, listener, grant, is_bounded=is_bounded)
    server.start()
    try:
        yield server
    finally:
        server.stop()
