"""What the agent answers: the fields of every JSON object that the API returns and `--json` prints.

These types are a contract with scripts: fields may be added, never renamed or removed while `SCHEMA` is 1. Times
are RFC 3339 in fields ending `_at`, durations are numbers of seconds in fields ending `_s`, addresses are strings.
`""` and `[]` stand for "none"; `null` only for "not known". Lists are sorted.

The API wraps them: `{"schema": 1, "items": [...]}` for lists, `{"schema": 1, ...fields}` for one thing, and with
`?watch=1` one object a line: `{"schema": 1, "event": "added", "item": {...}}` for the full state, then
`{"schema": 1, "event": "synced"}`, then `added`, `changed` and `removed`, items told apart by `id`.

Nothing is imported here: the command line reads this module's names too.
"""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict

SCHEMA = 1

AgentWord = Literal["alive", "suspect", "dead", "left", "unknown"]
"""How the gossip sees a host's agent."""

HostWord = Literal["answers", "silent", "unknown"]
"""Whether the host's kernel answers on the probe network, which needs no agent there."""

PathWord = Literal["ok", "lossy", "degraded", "one-way", "down", "unknown", "local"]
"""The overlay path to a host. `degraded`: only packets smaller than a network's MTU pass. `lossy`: a tenth or more is
lost. `one-way`: that host's packets arrive here, ours are not answered. `local`: this host itself. A host that shares
no network with this one is only asked by small packets: `ok` says no more than that these pass."""

EndpointWord = Literal["up", "hidden", "fenced", "unhealthy", "pending"]
"""`hidden`: its host is down, so names leave it out. `fenced`: it clashes with another one, or the
cluster forgot its host while that was away; it is not used.
`pending`: not yet published."""


SourceWord = Literal["own", "replicated", "asked"]
"""`own`: this host's own endpoint. `replicated`: another host's, in a network that this host takes part in. `asked`:
a member told of it when this answer was made."""


class HostPart(TypedDict):
    """This host, inside Status."""

    id: str
    name: str
    address: str
    """Underlay address, `""` before one is chosen."""
    zone: str
    version: str
    uptime_s: float


class ClusterPart(TypedDict):
    """The cluster this host belongs to."""

    id: str
    name: str
    """`mesh` of `mesh.internal`."""
    domain: str


class EndpointCounts(TypedDict):
    """Of all networks this host takes part in."""

    local: int
    total: int
    hidden: int


class DnsPart(TypedDict):
    """The resolver process."""

    running: bool
    sandboxes: int
    """Namespaces in which it answers."""
    queries: int


class DriftPart(TypedDict):
    """Kernel against records, as of the last look."""

    differences: int
    """0 = the kernel has what the records say."""
    checked_s: float | None
    """Seconds since the last comparison; null = none yet."""
    repaired: int
    """Damage by others put right since the agent started."""
    kinds: dict[str, int]
    """The same by kind, such as `device-deleted` or `entry-altered`; only kinds that occurred."""


class Notice(TypedDict):
    """Something an operator should know, and what to do about it."""

    code: str
    message: str
    cure: str
    """A command where there is one."""


class HeardAgent(TypedDict):
    """An agent of some cluster that was heard and is not a member of ours."""

    name: str
    """Host name, `""` when the packet did not say."""
    address: str
    cluster: str
    """Cluster name or the first digits of its id; `""` when not known (an agent without a cluster)."""
    how: Literal["mdns", "gossip"]


class Status(TypedDict):
    """One screen about this host. In no cluster: `cluster` is null and the counts are zero."""

    host: HostPart
    cluster: ClusterPart | None
    members: dict[str, int]
    """Number of hosts by AgentWord, this host included; only states that occur."""
    networks: list[str]
    """Names of the networks this host takes part in."""
    network_count: int
    """All networks of the cluster."""
    endpoints: EndpointCounts
    dns: DnsPart
    drift: DriftPart
    paths: dict[str, int]
    """Number of other hosts by PathWord; only those that occur."""
    data_plane: str
    """`not encrypted`."""
    refused: dict[str, int]
    """Packets refused since start, by reason; only reasons that occurred."""
    warnings: list[Notice]
    heard: list[HeardAgent]


class Initialised(TypedDict):
    """Answer of `init`. The same name again is no error: `created` is false."""

    cluster: ClusterPart
    created: bool


class Invitation(TypedDict):
    """Answer of `invite`. The token is a secret."""

    token: str
    ttl_s: float
    uses: int
    expires_at: str


class Joined(TypedDict):
    """Answer of `join`."""

    cluster: ClusterPart
    via: str
    """Address of the member that let us in; `""` when this host was in that cluster already."""
    members: int
    """Known members, this host included."""


class Left(TypedDict):
    """Answer of `leave`."""

    cluster: ClusterPart
    detached: int
    """Endpoints that were detached."""


class ForgottenHost(TypedDict):
    """A host that was forgotten."""

    id: str
    name: str
    address: str
    """Where it was."""


class ForgetAnswer(TypedDict):
    """Answer of `forget`."""

    hosts: list[ForgottenHost]
    addresses: int
    """How many addresses this host took over, in all networks."""
    unheard: list[str]
    """With force: names of live hosts that did not acknowledge it in time."""


class WithdrawAnswer(TypedDict):
    """Answer of `withdraw`."""

    name: str
    """This host's."""
    told: int
    """Live hosts that know of it."""


ObjectWord = Literal["present", "missing", "altered", "left over", "not needed", "not known"]
"""An object against the record that makes it. `not needed`: nothing should be there, and nothing is."""


class WhyRecord(TypedDict):
    """A record that something follows from, and where it is from."""

    kind: str
    """`endpoint`, `network` or `host`."""
    name: str
    host: str
    """Who wrote it."""
    host_id: str
    epoch: int | None
    """With `sequence` its version; null: its owner says something else by now, or has said nothing yet."""
    sequence: int | None


class WhyObject(TypedDict):
    """Something that a record makes in the kernel, in a container or in a resolver's answers."""

    kind: str
    """`device`, `neighbour`, `bridge entry`, `tunnel entry`, `interface`, `address`, `resolver`, `name`, …"""
    thing: str
    state: ObjectWord
    reason: str
    fix: str
    """What puts it right by hand; `""` when nothing is wrong."""


class Why(TypedDict):
    """`inspect --why`."""

    complete: bool
    """False when an object is missing, altered or left over."""
    records: list[WhyRecord]
    objects: list[WhyObject]
    left_out: int
    """Endpoints of a service that are not explained, because there are too many."""


class MemberInfo(TypedDict):
    """A host of the cluster."""

    id: str
    name: str
    """Unique: two hosts of one name show as `web` and `web-1f3a`."""
    address: str
    agent: AgentWord
    host: HostWord
    version: str
    zone: str
    rtt_s: float | None
    path: PathWord
    path_mtu_bytes: int | None
    """The largest packet that passes in one piece, up to the MTU of the networks that both hosts are in; null: not
    known, or no network shared."""
    loss_percent: float | None
    """Of the last exchanges with it, there and back; null: too few."""
    local: bool
    """True for the host that answers."""
    why: NotRequired[Why]
    """Only in `inspect --why`."""


class Space(TypedDict):
    """The part of a network's address space that this host hands out from, in addresses."""

    owned: int
    used: int
    free: int
    cooling: int
    """Freed a short while ago, used again only when nothing else is free."""


class SpaceShare(TypedDict):
    """What one host owns of a network's address space, in addresses."""

    host: str
    host_id: str
    agent: AgentWord
    owned: int
    """Addresses that it gives to its endpoints, or hands on to hosts that ask."""
    used: int | None
    """None: not known, because this host takes no part in the network."""
    free: int | None
    ranges: list[str]
    """`10.160.0.2 - 10.160.7.255`, in the first of the subnets."""


class SpaceUse(TypedDict):
    """The address space of a whole network, as this host sees it."""

    total: int
    """Addresses that endpoints may have."""
    used: int | None
    """As above."""
    free: int | None
    away: int | None
    """Of the free ones, those whose owner's agent does not answer: nobody can have them until it does, or until
    their owner is forgotten."""
    unowned: int
    """Nobody is known to own them (yet)."""
    owners: list[SpaceShare]
    """The largest first."""


class HostAddress(TypedDict):
    """What a host has itself in a network made with `--host-access`."""

    host: str
    addresses: list[str]
    """One for each subnet."""


class Network(TypedDict):
    """A network."""

    id: str
    name: str
    subnets: list[str]
    gateways: list[str]
    """One for each subnet."""
    domain: str
    """`app.mesh.internal`."""
    vni: int
    mtu_bytes: int
    internal: bool
    policy: Literal["open", "links"]
    multicast: bool
    host_access: bool
    host_addresses: list[HostAddress]
    created_by: str
    """Host name."""
    revision: int
    attached: bool
    """This host takes part."""
    endpoint_count: int | None
    """null: not known, because this host takes no part and no host that does could be asked."""
    hosts: list[str]
    """Names of the hosts that take part."""
    clash: str
    """Why it is not used as it stands (name, VNI or subnet taken by another one), `""` when all is well."""
    published: list[str]
    """`PORTS to ENDPOINT` for each published port of this host."""
    created: NotRequired[bool]
    """Only in the answer of `network create`: false when it existed with the same options."""
    warnings: NotRequired[list[Notice]]
    """In the answer of `network create`: what may not be as its maker expects. In `inspect`: what is not known."""
    use: NotRequired[SpaceUse]
    """Only in `network ls` and `network inspect`."""
    space: NotRequired[Space]
    """Only in `network inspect`."""
    why: NotRequired[Why]
    """Only in `inspect --why`."""


class NetworkRemoved(TypedDict):
    """Answer of `network rm`."""

    id: str
    name: str
    detached: int
    """With force: endpoints of this host that were detached."""


class PortPart(TypedDict):
    """A port exposed by name."""

    name: str
    number: int
    protocol: str


class LinkPart(TypedDict):
    """A link of a sandbox."""

    service: str
    alias: str


class Endpoint(TypedDict):
    """A container's interface. The last group of fields is known to its own host only: `""` and [] elsewhere."""

    id: str
    name: str
    service: str
    network: str
    """Name; `network_id` is the identity."""
    network_id: str
    host: str
    host_id: str
    addresses: list[str]
    mac: str
    aliases: list[str]
    ports: list[PortPart]
    labels: dict[str, str]
    health: Literal["unknown", "starting", "healthy", "unhealthy"]
    state: EndpointWord
    reason: str
    """Why `state` is not `up`."""
    names: list[str]
    """Fully qualified names that lead to it: the service's, its own, and the one with the host."""
    version: str
    """`epoch.sequence` of its record."""
    local: bool
    source: SourceWord
    """Where this row comes from."""
    told_by: list[str]
    """Names of the members that told of it, where `source` is `asked`."""
    container_id: str
    """As its runtime says, `""` where none told."""
    compose_project: str
    compose_service: str
    """What compose calls it, `""` for containers that compose did not make."""
    target: str
    """The sandbox, as it was named at attach; of Docker and Podman the container."""
    ifname: str
    """Inside the sandbox."""
    links: list[LinkPart]
    published: list[str]
    """Ports of its host that lead to it, as `attach --publish` takes them: those of the agent on its own host only,
    those of Docker on all hosts."""
    created: NotRequired[bool]
    """Only in the answers of `attach` and `network connect`: false when it was there already."""
    warnings: NotRequired[list[Notice]]
    """Only in these too: what will not work as one might expect."""
    why: NotRequired[Why]
    """Only in `inspect --why`."""


class Detached(TypedDict):
    """Answer of `detach` and `network disconnect`."""

    id: str
    name: str
    network: str


class Service(TypedDict):
    """All endpoints that share a service name in a network."""

    id: str
    """`name.network`, with the network's id when two networks share a name."""
    name: str
    network: str
    network_id: str
    fqdn: str
    endpoint_count: int
    answering: int
    """How many of them names lead to now."""
    unreached: NotRequired[int]
    """How many are up on hosts from which this one gets no answer by the overlay: names of this host lead there only
    where they have nothing else."""
    addresses: list[str]
    """Of those that answer."""
    hosts: list[str]
    """Names of the hosts of all its endpoints."""
    ports: list[PortPart]
    aliases: list[str]
    """Of all its endpoints: further names that lead to them."""
    source: SourceWord
    told_by: list[str]
    """As for endpoints."""
    alias_of: NotRequired[list[str]]
    """Only in `inspect`, where the name is an alias and no service: the services whose endpoints have it."""
    why: NotRequired[Why]
    """Only in `inspect --why`."""


class EndpointInspection(Endpoint):
    """`inspect` of an endpoint."""

    kind: Literal["endpoint"]


class ServiceInspection(Service):
    """`inspect` of a service."""

    kind: Literal["service"]
    endpoints: list[Endpoint]
    warnings: list[Notice]
    """What is not known, because hosts that know it do not answer."""


class NetworkInspection(Network):
    """`inspect` of a network."""

    kind: Literal["network"]
    endpoints: list[Endpoint]


class HostInspection(MemberInfo):
    """`inspect` of a host."""

    kind: Literal["host"]
    networks: list[str]
    endpoints: list[Endpoint]
    warnings: list[Notice]
    """As above."""


Inspection = EndpointInspection | ServiceInspection | NetworkInspection | HostInspection


class CheckFinding(TypedDict):
    """Something that a check of `doctor` found."""

    thing: str
    message: str
    fix: str
    """A command, or a sentence where no command does it."""
    severity: Literal["failed", "warning"]


class CheckOutcome(TypedDict):
    """A check of `doctor`."""

    name: str
    """Stable."""
    says: str
    """What is so when it passes."""
    verdict: Literal["passed", "warning", "failed", "not known"]
    note: str
    """Why the verdict is not known."""
    findings: list[CheckFinding]
    left_out: int
    """Findings beyond those shown."""


class Doctor(TypedDict):
    """Fitness of the host, and intent against kernel."""

    healthy: bool
    """No check failed. Warnings do not count."""
    agent: Literal["answers", "silent"]
    """`silent`: this is the command line's own look."""
    host: list[CheckOutcome]
    intent: list[CheckOutcome]
    """Empty where there is nothing to compare; `absent` says why."""
    cluster: list[CheckOutcome]
    """What `status` warns of, as checks. Empty where no agent answers."""
    absent: str
    looked_at: dict[str, int]
    """How much was compared: `networks`, `containers`, `devices`, `entries`, `questions`."""


class ResourceRecord(TypedDict):
    """A resource record, as text."""

    name: str
    type: str
    ttl_s: int
    data: str


PingRequest = TypedDict("PingRequest", {"from": str, "to": str, "count": int, "trace": bool})
"""`from`: an endpoint of this host, `""` = the host itself."""


class PingResult(TypedDict):
    """What became of packets of one size to one address, or of one TCP connection."""

    address: str
    port: int | None
    size_bytes: int | None
    """Of the whole packet; null for a connection."""
    sent: int
    received: int
    loss_percent: float
    rtt_min_s: float | None
    rtt_avg_s: float | None
    rtt_max_s: float | None
    trouble: str
    """`no answer`, `refused`, or what the kernel said; `""` when something came back."""


class PingHop(TypedDict):
    """A layer on the way, and what it decided."""

    layer: str
    """`name`, `container`, `kernel`, `policy`, `path` or `host`."""
    thing: str
    ok: bool
    says: str
    fix: str


Ping = TypedDict(
    "Ping",
    {
        "from": str,
        "to": str,
        "host": str,
        "reached": bool,
        "lost_at": str,
        "says": str,
        "results": list[PingResult],
        "trace": list[PingHop],
    },
)
"""`host`: where the addresses are, `""` for what is not ours. `lost_at`: a layer of PingHop, or `endpoint` for the
far end itself; `""` when everything came back. `trace` is there when it was asked for or when something got lost."""


class NameServerAnswer(TypedDict):
    """What one name server of the host said to the question of a `lookup`."""

    server: str
    status: str
    """DNS response code; `""`: no answer."""
    after_s: float | None
    addresses: list[str]
    trouble: str
    """Why there is no answer."""


class Lookup(TypedDict):
    """The resolver's answer for an endpoint, and why."""

    name: str
    """Fully qualified, as it was found by the search list."""
    type: str
    status: str
    """DNS response code: `NOERROR`, `NXDOMAIN`, `SERVFAIL`, `REFUSED`; NOERROR without answers means no such type."""
    answers: list[ResourceRecord]
    asked_for: str
    """Endpoint id whose view was used, `""`: that of a container in all networks this host takes part in, or, where
    that finds nothing, in all networks of the cluster."""
    reason: str
    """One sentence: which rule gave this answer, which endpoints were left out and why."""
    servers: list[NameServerAnswer]
    """What the host's name servers said, for a name that is asked of them; else empty."""
    warnings: NotRequired[list[Notice]]
    """What is not known; and names that several compose projects share."""


class AgentVersion(TypedDict):
    """The agent that answers."""

    version: str
    python: str
    kernel: str
