"""The schema of answers: the fields of every JSON object that the API returns and `--json` prints.

These types are a contract with scripts: fields may be added, never renamed or removed while `SCHEMA` is 1. Times
are RFC 3339 in fields ending `_at`, durations are numbers of seconds in fields ending `_s`, addresses are strings.
`""` and `[]` stand for "none"; `null` only for "not known". Lists are sorted.

The API wraps them: `{"schema": 1, "items": [...]}` for lists, `{"schema": 1, ...fields}` for one object, and with
`?watch=1` one object per line: `{"schema": 1, "event": "added", "item": {...}}` for the full state, then
`{"schema": 1, "event": "synced"}`, then `added`, `changed` and `removed`; `id` identifies items.

It imports nothing else of netagent.
"""

from __future__ import annotations

from typing import Any, Generic, Literal, NotRequired, TypedDict, TypeVar

T = TypeVar("T")

SCHEMA = 1

AgentWord = Literal["alive", "suspect", "dead", "left", "unknown"]
"""The state of a host's agent according to gossip."""

HostWord = Literal["answers", "silent", "unknown"]
"""Whether the host's kernel answers on the probe network, which needs no agent there."""

PathWord = Literal["ok", "lossy", "degraded", "one-way", "down", "unknown", "local"]
"""The overlay path to a host. `degraded`: only packets smaller than a network's MTU pass. `lossy`: a tenth or more of
the packets is lost. `one-way`: that host's packets arrive here, but it does not answer ours. `local`: this host
itself. A host that shares no network with this one gets only small probes: `ok` then says only that these pass."""

EndpointWord = Literal["up", "hidden", "fenced", "stopping", "drained", "starting", "unhealthy", "pending"]
"""`hidden`: its host is down, so DNS answers leave it out. `fenced`: it conflicts with another one, or the cluster
evicted its host while that was away; it is not used. `stopping`, `drained`: names are withdrawn because its container
was asked to stop, or because an operator asked for it. `starting`: it has a health check that has not succeeded yet.
`pending`: not yet published."""


SourceWord = Literal["own", "replicated", "asked"]
"""`own`: this host's own endpoint. `replicated`: another host's, in a network that this host is in. `asked`: another
member sent it for this answer."""


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
    """The cluster that this host is in."""

    id: str
    name: str
    """`mesh` of `mesh.internal`."""
    domain: str


class EndpointCounts(TypedDict):
    """Numbers of endpoints in the networks that this host is in."""

    local: int
    total: int
    hidden: int


class DnsPart(TypedDict):
    """The resolver process."""

    running: bool
    sandboxes: int
    """Number of namespaces in which it answers."""
    queries: int


class DriftPart(TypedDict):
    """Kernel compared with the records, as of the last comparison."""

    differences: int
    """0 = the kernel matches the records."""
    checked_s: float | None
    """Seconds since the last comparison; null = none yet."""
    repaired: int
    """Changes by other programs that were repaired since the agent started."""
    kinds: dict[str, int]
    """The same by kind, such as `device-deleted` or `entry-altered`; only kinds that occurred."""


class Notice(TypedDict):
    """A warning for the operator, and what to do about it."""

    code: str
    message: str
    cure: str
    """A command if there is one."""


class Listing(TypedDict, Generic[T]):
    """A list."""

    items: list[T]
    warnings: NotRequired[list[Notice]]
    """What is missing in it."""


class EventAuthor(TypedDict):
    """Who or what caused an event."""

    kind: Literal["user", "token", "runtime", "gossip", "kernel", "agent"]
    """`gossip`: another host, by what it wrote or did not answer. `agent`: this host's agent by itself."""
    name: str
    """An account, a token, a runtime or a host."""
    uid: int | None
    """Of a user of the event's host; null for all others."""
    program: str
    """What the user's program calls itself, `""` when that is not known: a hint, no proof."""


class Event(TypedDict):
    """What happened on a host."""

    id: str
    number: int
    """Counts up within one host, also over restarts; some are missing when older ones were dropped."""
    happened_at: str
    """By the clock of its host."""
    host: str
    host_id: str
    kind: str
    """One of those that `netagent events --help` lists, or of a later release."""
    level: Literal["info", "warning", "error"]
    subject: str
    """What it happened to, `""` for the host as a whole."""
    text: str
    author: EventAuthor


class HeardAgent(TypedDict):
    """An agent heard on the network that is not a member of this host's cluster."""

    name: str
    """Host name, `""` when the packet did not contain it."""
    address: str
    cluster: str
    """Name of the cluster or the first digits of its id; `""` when not known (an agent in no cluster)."""
    how: Literal["mdns", "gossip"]


class ServiceAddressCounts(TypedDict):
    """Addresses of services, inside Status."""

    count: int
    """In the networks whose records this host has."""
    untranslated: str
    """Why this host's kernel leads connections to none of them; `""`: it leads them to replicas."""


class RingKeyPart(TypedDict):
    """The key with which this host seals what it tells the others, and a change of it that is under way."""

    id: str
    age_s: float
    changing_to: str
    """Id of the key that all live hosts are about to use; `""`: none."""
    lacking: list[str]
    """Live hosts that do not accept that one yet."""


class Status(TypedDict):
    """The state of this host. Outside a cluster `cluster` is null and the counts are zero."""

    host: HostPart
    cluster: ClusterPart | None
    members: dict[str, int]
    """Number of hosts by AgentWord, including this host; only states that occur."""
    networks: list[str]
    """Names of the networks that this host is in."""
    network_count: int
    """All networks of the cluster."""
    endpoints: EndpointCounts
    dns: DnsPart
    drift: DriftPart
    paths: dict[str, int]
    """Number of other hosts by PathWord; only those that occur."""
    data_plane: str
    """`not encrypted`, or how many paths are encrypted, by what, and how old this host's key is."""
    ring_key: NotRequired[RingKeyPart]
    """Missing outside a cluster."""
    allows_unsigned: NotRequired[bool | None]
    """Whether nodes may be members that prove nothing of what they say; null: not decided, and they may. Missing
    outside a cluster."""
    unsigned: NotRequired[list[str]]
    """Live members that prove nothing of what they say. Missing outside a cluster."""
    service_addresses: NotRequired[ServiceAddressCounts]
    """Missing outside a cluster."""
    refused: dict[str, int]
    """Packets refused since start, by reason; only reasons that occurred."""
    audited: NotRequired[int]
    """Packets that passed since the start because the network's policy is `audit`, and that `links` would refuse. Of
    TCP only those that open a connection. Missing outside a cluster."""
    warnings: list[Notice]
    heard: list[HeardAgent]


class Initialised(TypedDict):
    """Answer of `init`. Repeating it with the same name is no error: `created` is then false."""

    cluster: ClusterPart
    created: bool


class Invitation(TypedDict):
    """Answer of `invite`. The token is a secret."""

    id: str
    """For `uninvite`; no secret."""
    token: str
    ttl_s: float
    uses: int
    expires_at: str


class Uninvited(TypedDict):
    """Answer of `uninvite`."""

    revoked: int
    """How many invitations were open, and are not any more."""


class TokenNetwork(TypedDict):
    """A network of a token."""

    id: str
    name: str
    exists: bool
    """False: it was removed. The token does not reach one that was made since under its name."""


class TokenInfo(TypedDict):
    """A token, without its secret."""

    id: str
    name: str
    role: str
    """`read`, `attach` or `admin`."""
    networks: list[TokenNetwork]
    is_limited: bool
    """False: it reaches all networks, and what belongs to none."""
    created_at: str
    created_by: str
    expires_at: str
    """`""`: never."""
    used_at: str
    """`""`: not since the agent started."""


class TokenCreated(TokenInfo):
    """Answer of `token create`. The token is a secret."""

    token: str


class TokenRevoked(TypedDict):
    """Answer of `token revoke`."""

    id: str
    name: str


class RingKeyInfo(TypedDict):
    """A ring key that this host or another one accepts, without the key itself."""

    id: str
    state: str
    """`primary` (this host seals with it), `new` (it will be, once all live hosts have it), `standby` (installed, and
    not used before `keys use`), `accepted`, `retiring` (accepted for a moment longer), or `elsewhere` (this host does
    not have it)."""
    number: int
    """The newer of two keys has the higher number; 0: from before keys had numbers."""
    age_s: float
    """Since this host has it; 0 where it does not."""
    hosts: NotRequired[list[str]]
    """Other hosts that accept it, live or not, as far as they say."""
    lacking: list[str]
    """Live hosts that do not accept it, as far as they say."""
    away: list[str]
    """The same of hosts whose agents do not answer."""


class RingKeyRotated(TypedDict):
    """Answer of `keys rotate`."""

    id: str
    in_use: bool
    """True: all live hosts seal with it."""
    hosts: int
    """Hosts that have it, this one included."""
    lacking: list[str]
    """Live hosts that do not have it yet."""
    warnings: list[Notice]


class EncryptionPath(TypedDict):
    """What is known of encryption to another host."""

    host: str
    host_id: str
    state: str
    """`encrypted`; `no session`: packets to it leave by the tunnel, which has no session to it, so they are dropped;
    `clear`; or `away`: its agent does not answer, and there is no session."""
    stage: str
    """How far the other host is: `clear`, `ready`, `sending` or `fenced`; `""`: it has not said."""
    endpoint: str
    """Where it was heard by the tunnel last; `""`: nowhere."""
    handshake_s: float | None
    """Since the last handshake, which gave the present session its keys; null: there was none."""
    received_bytes: int
    sent_bytes: int
    """By the tunnel, since the device was made."""


class LargeNetwork(TypedDict):
    """A network whose packets are too large for the tunnel."""

    name: str
    mtu_bytes: int
    passes_bytes: int
    """The largest packet that passes the tunnel whole."""


class Encryption(TypedDict):
    """Whether containers' packets between hosts are encrypted."""

    state: str
    """`off`, `turning on`, `on` or `turning off`."""
    stage: str
    """How far this host is: `clear`, `ready` (it has a session to each live host), `sending` (by the tunnel alone),
    `fenced` (its firewall refuses VXLAN in the clear)."""
    changed_by: str
    """Who decided it; `""`: it was never turned on."""
    changed_on: str
    """The host on which that was decided; `""`: not known."""
    changed_at: str
    backend: str
    """What encrypts; `""`: nothing."""
    key_age_s: float | None
    """Of this host's key of the tunnel; null: it has none yet."""
    encrypted: int
    """Paths that are encrypted."""
    paths: list[EncryptionPath]
    waiting: list[str]
    """What the cluster waits for while it changes over: a sentence for each host."""
    away: list[str]
    """Hosts that are not waited for, because their agents do not answer."""
    large_networks: list[LargeNetwork]
    warnings: list[Notice]


class RingKeyInstalled(TypedDict):
    """Answer of `keys install`. Of a key that this host had already `created` is false."""

    id: str
    created: bool
    hosts: int
    """Hosts that have it, this one included."""
    lacking: list[str]
    """Live hosts that do not have it yet."""
    warnings: list[Notice]


class RingKeyUsed(TypedDict):
    """Answer of `keys use`."""

    id: str
    changed: bool
    """False: it was in use already, or about to be."""
    in_use: bool
    """True: all live hosts seal with it."""
    hosts: int
    """Hosts that have it, this one included."""
    warnings: list[Notice]


class RingKeyRemoved(TypedDict):
    """Answer of `keys remove`."""

    id: str
    changed: bool
    """False: it was removed before, and hosts have it still."""
    hosts: list[str]
    """Live hosts that accept it for a moment longer."""
    away: list[str]
    """Hosts that do not answer and have it: they hear of it when they are back."""
    warnings: list[Notice]


class Joined(TypedDict):
    """Answer of `join`."""

    cluster: ClusterPart
    via: str
    """Address of the member through which this host joined; `""` when it was already in that cluster."""
    members: int
    """Known members, including this host."""


class Left(TypedDict):
    """Answer of `leave`."""

    cluster: ClusterPart
    detached: int
    """Endpoints that were detached."""


class ForgottenHost(TypedDict):
    """A host that was evicted."""

    id: str
    name: str
    address: str
    """Its last address."""


class ForgetAnswer(TypedDict):
    """Answer of `forget`."""

    hosts: list[ForgottenHost]
    addresses: int
    """How many addresses this host took over, in all networks."""
    unheard: list[str]
    """With force: names of live hosts that did not acknowledge it in time."""


class RevokeAnswer(TypedDict):
    """Answer of `revoke`."""

    hosts: list[ForgottenHost]
    addresses: int
    """How many addresses this host took over, in all networks."""
    unheard: list[str]
    """Names of live hosts that did not acknowledge it in time."""


class WithdrawAnswer(TypedDict):
    """Answer of `withdraw`."""

    name: str
    """The name of this host."""
    told: int
    """Number of live hosts that acknowledged it."""


ObjectWord = Literal["present", "missing", "altered", "left over", "not needed", "not known"]
"""An object compared with its record. `not needed`: it should not exist, and does not."""


class WhyRecord(TypedDict):
    """A record behind an object, and its writer."""

    kind: str
    """`endpoint`, `network` or `host`; `external service`, `external state` or `own name`."""
    name: str
    host: str
    """The host that wrote it."""
    host_id: str
    epoch: int | None
    """Its version, with `sequence`; null: the owner has replaced or removed it, or not published it yet."""
    sequence: int | None


class WhyObject(TypedDict):
    """An object that a record makes in the kernel, in a container or in the answers of a resolver."""

    kind: str
    """`device`, `neighbour`, `bridge entry`, `tunnel entry`, `interface`, `address`, `resolver`, `name`, …"""
    thing: str
    state: ObjectWord
    reason: str
    fix: str
    """How to repair it by hand; `""` when nothing is wrong."""


class Why(TypedDict):
    """`inspect --why`."""

    complete: bool
    """False when an object is missing, altered or left over."""
    records: list[WhyRecord]
    objects: list[WhyObject]
    left_out: int
    """Number of endpoints of a service that are left out because there are too many."""


class DrainPart(TypedDict):
    """A drain of an endpoint or a host."""

    since: str
    """`2026-12-01T22:13:00Z`."""
    by: str
    """`stop` if its container was asked to stop, else the operator's account on that host."""


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
    """Loss on the round trip, over the latest probes; null: too few."""
    local: bool
    """True for the host that answers."""
    drain: NotRequired[DrainPart | None]
    """Since when the names of its endpoints are withdrawn, and by whom; null: they are not."""
    outdated: NotRequired[bool]
    """True if its agent is away and its kernel answers: its endpoints have health and drains as it last
    said."""
    lacks_udp: NotRequired[bool]
    """True if its agent answers this host by TCP or through other hosts, but not by UDP."""
    records: NotRequired[Literal["signed", "unsigned"]]
    """`signed`: of this host's records, the host that answers believes only what this host has signed. `unsigned`: it
    has seen no signature yet, as of a release that makes none."""
    claims: NotRequired[Literal["signed", "unsigned"]]
    """The same of what this host says about itself: its address, its incarnation, and that it leaves."""
    encrypted: NotRequired[bool]
    """True if packets of containers to it pass the encrypted tunnel, or do not pass."""
    why: NotRequired[Why]
    """Only in `inspect --why`."""


class Space(TypedDict):
    """The part of a network's address space that this host owns, in addresses."""

    owned: int
    used: int
    free: int
    cooling: int
    """Released recently; used again only when no other address is free."""


class SpaceShare(TypedDict):
    """The part of a network's address space that one host owns, in addresses."""

    host: str
    host_id: str
    agent: AgentWord
    owned: int
    """Addresses that it gives to its endpoints or grants to other hosts on request."""
    used: int | None
    """null: not known, because this host is not in the network."""
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
    """Free addresses whose owner's agent does not answer: they cannot be used until it does, or until the owner is
    forgotten."""
    unowned: int
    """Addresses without a known owner (yet)."""
    owners: list[SpaceShare]
    """The largest first."""


class HostAddress(TypedDict):
    """The addresses of a host itself in a network made with `--host-access`."""

    host: str
    addresses: list[str]
    """One for each subnet."""


class NetworkChange(TypedDict):
    """The last change of an option of a network."""

    option: str
    """`policy`, as in the network."""
    value: str
    since: str
    """RFC 3339, in UTC."""
    by: str
    """The account of the operator."""
    host: str
    """Name of the host where it was changed, or of the one that has succeeded that host."""


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
    policy: Literal["open", "audit", "links"]
    answer_order: NotRequired[Literal["spread", "nearest", "zone"]]
    """Which replicas the names of its services lead to."""
    multicast: bool
    host_access: bool
    feed_rules: list[str]
    """Domains that labels of its containers may claim in feeds; empty: all."""
    feed_labels: bool
    """True if labels that feeds read are published."""
    shared_names: NotRequired[Literal["answer", "refuse"]]
    """Whether a name that several groups have is answered outside them."""
    service_addresses: NotRequired[Literal["off", "on"]]
    """Whether each service with replicas in it gets an address of its own."""
    egress: NotRequired[str]
    """Where its containers may connect outside the cluster: `open`, `none`, or targets separated by commas."""
    host_addresses: list[HostAddress]
    created_by: str
    """Host name."""
    revision: int
    attached: bool
    """True if this host is in it."""
    endpoint_count: int | None
    """null: not known, because this host is not in it and no host in it answered."""
    hosts: list[str]
    """Names of the hosts in it."""
    clash: str
    """Why it cannot be used as it is (another network has its name, VNI or subnet); `""` if it can."""
    published: list[str]
    """`PORTS to ENDPOINT` for each published port of this host."""
    changes: NotRequired[list[NetworkChange]]
    """Options that were changed since the network was made, each with the last change."""
    created: NotRequired[bool]
    """Only in the answer of `network create`: false when it existed with the same options."""
    warnings: NotRequired[list[Notice]]
    """In the answer of `network create`: what may differ from expectations. In `inspect`: what is not known."""
    use: NotRequired[SpaceUse]
    """Only in `network ls` and `network inspect`."""
    space: NotRequired[Space]
    """Only in `network inspect`."""
    why: NotRequired[Why]
    """Only in `inspect --why`."""


class ChangedOption(TypedDict):
    """An option that `network set` has changed."""

    option: str
    value: str
    former: str


class ChangedNetwork(Network):
    """Answer of `network set`."""

    changed: list[ChangedOption]
    """Empty: the network had these options already."""
    unheard: list[str]
    """Names of hosts that are up and have not acknowledged the change yet."""


class DescribedNetwork(TypedDict):
    """A network as `export` writes it and `apply` reads it."""

    name: str
    subnets: list[str]
    mtu_bytes: int
    internal: bool
    policy: Literal["open", "audit", "links"]
    answer_order: Literal["spread", "nearest", "zone"]
    multicast: bool
    host_access: bool
    shared_names: Literal["answer", "refuse"]
    service_addresses: Literal["off", "on"]
    egress: str
    feed_rules: list[str]
    feed_labels: bool


class DescribedPort(TypedDict):
    """A port of an outside service that is announced by name."""

    name: str
    number: int
    protocol: str


class DescribedService(TypedDict):
    """What an operator added to an outside service."""

    network: str
    name: str
    addresses: list[str]
    dns_name: str
    ports: list[DescribedPort]
    weight: int
    checks: list[str]


class DescribedServiceAddress(TypedDict):
    """The address that an operator gave to a service."""

    network: str
    name: str
    group: str
    ports: list[str]
    balance: Literal["spread", "nearest", "zone", "first"]
    weights: list[str]
    sticky: bool
    all_failing: Literal["hide", "keep"]
    keep_connections: bool


class DescribedName(TypedDict):
    """A name that an operator added."""

    name: str
    """`shop.app`."""
    cname: str
    addresses: list[str]
    texts: list[str]


class DescribedPublication(TypedDict):
    """A port of all hosts that leads to a service."""

    network: str
    name: str
    group: str
    port: str


class DescribedToken(TypedDict):
    """A token of this host, without its secret."""

    name: str
    role: Literal["read", "attach", "admin"]
    networks: list[str]
    ttl_s: int | None
    """None: it works until it is revoked."""


class Export(TypedDict):
    """Answer of `export`: what `apply` takes, and what it does not."""

    networks: list[DescribedNetwork]
    services: list[DescribedService]
    service_addresses: list[DescribedServiceAddress]
    names: list[DescribedName]
    published: list[DescribedPublication]
    tokens: list[DescribedToken]
    """Empty unless they were asked for."""
    left_out: list[str]
    """Services that are programs of a host, or end by themselves (`--ttl`), and tokens whose networks are removed."""


ChangeSign = Literal["+", "~"]


class AppliedChange(TypedDict):
    """A difference between the cluster and a file."""

    sign: ChangeSign
    """`+`: it was missing; `~`: it was otherwise."""
    thing: str
    what: str


class ApplyProblem(TypedDict):
    """Why a file is refused."""

    pointer: str
    """Where it is in the request, as a JSON pointer (RFC 6901): `/networks/0/subnets`."""
    place: str
    """Where it is in the file: `[network.shop] subnets`."""
    message: str
    hint: str
    code: str


class NewToken(TypedDict):
    """A token that `apply` has made."""

    name: str
    token: str
    """A secret, which only this answer has. `""`: it would be made."""


class Applied(TypedDict):
    """Answer of `apply`."""

    changes: list[AppliedChange]
    applied: bool
    """False: only shown."""
    unmentioned: list[str]
    """What operators have made and the file does not mention: it stays as it is."""
    tokens: list[NewToken]
    problems: list[ApplyProblem]
    """All that is wrong with the file. If there is anything, there are no changes; a request that is no dry run is
    refused."""


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
    alpn: NotRequired[list[str]]


class LinkPart(TypedDict):
    """A link of a sandbox."""

    service: str
    alias: str


class Endpoint(TypedDict):
    """A container's interface. Only its own host knows the last group of fields; elsewhere they are `""` and []."""

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
    weight: NotRequired[int]
    """Its share among the replicas of its service."""
    labels: dict[str, str]
    health: Literal["unknown", "starting", "healthy", "unhealthy"]
    health_since: NotRequired[str | None]
    """Since when it has this health; null: since it was attached, or its host does not say."""
    health_reason: NotRequired[str]
    """Why, as its host's checks found; `""` if it is healthy or has no check."""
    checks: NotRequired[list[str]]
    """Its checks, as `attach --check` takes them; only on its own host."""
    state: EndpointWord
    reason: str
    """Why `state` is not `up`."""
    drain: NotRequired[DrainPart | None]
    """Since when names are withdrawn although it runs, and by whom; null: they are not."""
    names: list[str]
    """Fully qualified names that resolve to it: of its service, its own, and the one with its host."""
    version: str
    """`epoch.sequence` of its record."""
    local: bool
    source: SourceWord
    """Where this row comes from."""
    told_by: list[str]
    """Names of the members that sent it, if `source` is `asked`."""
    container_id: str
    """The id that its runtime uses; `""` if not known."""
    group: NotRequired[str]
    """The group that it belongs to, such as its compose project; `""` for none."""
    compose_project: str
    compose_service: str
    """Its name in compose; `""` for containers that compose did not make."""
    target: str
    """The sandbox, as named at attach; for Docker and Podman the container."""
    ifname: str
    """Name of the interface in the sandbox."""
    links: list[LinkPart]
    published: list[str]
    """Ports of its host that are forwarded to it, as `attach --publish` takes them: those that the agent forwards
    only on its own host, those that Docker forwards on all hosts."""
    created: NotRequired[bool]
    """Only in the answers of `attach` and `network connect`: false when it was there already."""
    warnings: NotRequired[list[Notice]]
    """Only in the same answers: what will not work as expected."""
    why: NotRequired[Why]
    """Only in `inspect --why`."""


class Detached(TypedDict):
    """Answer of `detach` and `network disconnect`."""

    id: str
    name: str
    network: str


class Drained(TypedDict):
    """Answer of `drain` and `undrain`."""

    name: str
    """Of the endpoint, or of the host."""
    network: str
    """Of the endpoint; `""` for a host."""
    endpoint_count: int
    """Number of the host's endpoints; 1 for an endpoint."""
    drain: DrainPart | None
    """As it is now."""
    idle: bool | None
    """Whether no connection was open within the time to wait; null if there was none."""


class CheckResult(TypedDict):
    """What one check of an endpoint came to."""

    check: str
    """As `attach --check` takes it; `HEALTHCHECK` for that of its runtime, as the runtime last reported it."""
    ok: bool | None
    """null: it could not be asked."""
    says: str
    """`http 503 from 8080/healthz`."""
    shown: str
    """The beginning of the body or output; printable but for line breaks, at most 512 characters."""
    took_s: float | None
    """null: the runtime asked."""


class CheckedEndpoint(TypedDict):
    """The checks of one endpoint, asked now."""

    id: str
    name: str
    network: str
    state: EndpointWord
    reason: str
    """Why `state` is not `up`: what other hosts know, which these results do not change."""
    results: list[CheckResult]


class CheckAnswer(TypedDict):
    """Answer of `check`."""

    endpoints: list[CheckedEndpoint]
    healthy: bool
    """True if all checks succeed."""


ExternalWord = Literal["up", "starting", "unhealthy", "expired", "hidden"]
"""`starting`: no check has succeeded yet. `expired`: it was not renewed in time. `hidden`: it is a program of a host
that is away."""


class ExternalAddress(TypedDict):
    """An address of an external service."""

    address: str
    port: int | None
    state: ExternalWord
    since: str
    """Since when; `""` if not known."""
    reason: str
    """Why `state` is not `up`."""


class ExternalPart(TypedDict):
    """What was added to a service that is no container, by one command on one host."""

    id: str
    owner: str
    """The host where it was added."""
    owner_id: str
    kind: Literal["address", "host-port", "name"]
    dns_name: str
    """The name outside; `""` for others."""
    ports: list[PortPart]
    weight: int
    checks: list[str]
    ttl_s: int | None
    """Within this time it has to be renewed; null: it stays."""
    added_at: str
    """`2026-12-01T22:13:00Z`."""
    added_by: str
    asked_by: str
    """The host that asks its checks, resolves its name, or waits for its renewal; `""`: there is nothing to ask, or
    no host to do so."""
    addresses: list[ExternalAddress]
    reason: str
    """Why it has no addresses, or fewer than it should; `""` otherwise."""
    shadowed_by: str
    """The container that has the name, so that names lead to no address of this; `""`: none."""


class ServicePortPart(TypedDict):
    """A port of a service's address."""

    number: int
    target: int
    """The port of the replicas that it leads to."""


class Backend(TypedDict):
    """A replica that this host leads connections to."""

    id: str
    """Of the endpoint; of the addition, if it is no container."""
    name: str
    host: str
    host_id: str
    addresses: list[str]
    weight: int
    places: int | None
    """How many of the 64 places it has in this host's kernel: the share of the connections that it gets. null: this
    host leads none anywhere."""
    rtt_s: float | None
    """Round trip to its host; null: not known, or this host."""


class ServiceAddress(TypedDict):
    """An address of a service itself. Its options are those of `service create`."""

    addresses: list[str]
    """One for each subnet of the network."""
    owner: str
    """The host that gave it, and on which it is changed."""
    owner_id: str
    origin: Literal["operator", "label", "network"]
    """Why the service has it: `service create`, a replica's label netagent.address=true, or the network's
    `--service-addresses on`."""
    ports: list[ServicePortPart]
    """Only these are served; empty: all ports, each led to the same port."""
    balance: Literal["spread", "nearest", "zone", "first"]
    host_weights: dict[str, int]
    """The weight that replicas on a host have here instead of their own, by the host's name."""
    sticky: bool
    all_failing: Literal["hide", "keep"]
    keep_connections: bool
    in_names: bool
    """True for the one that names lead to. A service has several if hosts gave it one while they were cut off from
    each other; all of them work."""
    backends: list[Backend]
    """Where this host leads connections to it; empty: they are refused."""


class NoBackend(TypedDict):
    """A replica that this host leads no connections to."""

    name: str
    host: str
    reason: str


class Service(TypedDict):
    """All endpoints that share a service name in a network, or in a group of it."""

    id: str
    """`name.network` or `name.group.network`, with the network's id when two networks share a name."""
    name: str
    group: NotRequired[str]
    """The group whose service it is; `""` for none."""
    network: str
    network_id: str
    fqdn: str
    endpoint_count: int
    answering: int
    """Number of endpoints that DNS answers contain now."""
    unreached: NotRequired[int]
    """Number of endpoints that are up on hosts that do not answer this one through the overlay: DNS answers on this
    host contain them only if there are no others."""
    drained: NotRequired[int]
    """Number of endpoints that are drained or stopping, or whose host is drained."""
    starting: NotRequired[int]
    """Number of the others whose health check has not succeeded yet."""
    unhealthy: NotRequired[int]
    """Number of the others whose health check fails."""
    kept: NotRequired[int]
    """Number of the unhealthy ones that DNS answers contain if no other endpoint is up (`--all-failing keep`)."""
    not_up: NotRequired[list[str]]
    """Which of its endpoints these and the drained ones are, and why; at most 10."""
    addresses: list[str]
    """Addresses of the endpoints that DNS answers contain."""
    hosts: list[str]
    """Names of the hosts of all its endpoints."""
    ports: list[PortPart]
    aliases: list[str]
    """Aliases of all its endpoints."""
    source: SourceWord
    told_by: list[str]
    """As for endpoints."""
    external: NotRequired[list[ExternalPart]]
    """What operators added, if it is no service of containers."""
    service_addresses: NotRequired[list[ServiceAddress]]
    """Its own addresses, the one that names lead to first; empty: none."""
    alias_of: NotRequired[list[str]]
    """Only in `inspect`, if the name is an alias and not a service: the services whose endpoints have it."""
    why: NotRequired[Why]
    """Only in `inspect --why`."""


class ServiceAdded(Service):
    """Answer of `service add`."""

    created: bool
    """False if it was there already, and is renewed."""
    warnings: list[Notice]
    """What will not work as expected."""


class ServiceCreated(Service):
    """Answer of `service create` and `service set`."""

    created: bool
    """False if the service had the address already."""
    warnings: list[Notice]
    """What will not work as expected."""


class ServiceDescription(Service):
    """Answer of `service inspect`."""

    no_backends: list[NoBackend]
    """The other replicas, and why connections to its address are led to none of them; only if it has an address."""
    warnings: list[Notice]
    """What is not known, because hosts that know it do not answer; and why this host leads connections nowhere."""


class ServiceRemoved(TypedDict):
    """Answer of `service rm`."""

    name: str
    network: str
    removed: int
    """Number of additions of this host to the service."""
    addresses: NotRequired[list[str]]
    """The service's own addresses that were removed."""
    group: NotRequired[str]
    """Empty: it is the network's own service."""


class PublishedService(TypedDict):
    """Answer of `service publish` and `service unpublish`."""

    name: str
    network: str
    group: str
    """Empty: it is the network's own service."""
    port: str
    """`80:80/tcp`."""
    created: bool
    """False: it was so already. `service unpublish`: always false."""
    replicas: int
    """Of this host, to which the port leads now."""


class OwnName(TypedDict):
    """A name that an operator added to a network."""

    id: str
    name: str
    """`shop.app`."""
    network: str
    network_id: str
    fqdn: str
    cname: str
    """The full name that it leads to; `""` if it has data of its own."""
    addresses: list[str]
    texts: list[str]
    owner: str
    owner_id: str
    added_at: str
    added_by: str
    state: Literal["up", "shadowed"]
    """`shadowed`: a container has the name, or another host's record of this name counts."""
    reason: str
    created: NotRequired[bool]
    """Only in the answer of `name add`."""
    why: NotRequired[Why]
    """Only in `inspect --why`."""


class OwnNameRemoved(TypedDict):
    """Answer of `name rm`."""

    name: str
    network: str


class EndpointInspection(Endpoint):
    """`inspect` of an endpoint."""

    kind: Literal["endpoint"]


class ServiceInspection(Service):
    """`inspect` of a service."""

    kind: Literal["service"]
    endpoints: list[Endpoint]
    warnings: list[Notice]
    """What is not known, because hosts that know it do not answer."""


class OwnNameInspection(OwnName):
    """`inspect` of a name that an operator added."""

    kind: Literal["name"]


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


Inspection = EndpointInspection | ServiceInspection | OwnNameInspection | NetworkInspection | HostInspection


Flow = TypedDict(
    "Flow",
    {
        "id": str,
        "from": str,
        "from_id": str,
        "from_kind": Literal["endpoint", "host", "outside"],
        "from_gone": bool,
        "from_service": str,
        "from_host": str,
        "network": str,
        "network_id": str,
        "to": str,
        "to_id": str,
        "to_service": str,
        "to_host": str,
        "to_kind": Literal["endpoint", "host", "unknown", "outside"],
        "to_gone": bool,
        "address": str,
        "protocol": str,
        "port": int | None,
        "openings": int,
        "refused": int,
        "linked": bool | None,
        "first_at": str,
        "last_at": str,
    },
)
"""What one source opened to one address and port in the last hour. `from_kind`: a container (`endpoint`), the `host`
itself, or all clients `outside` of ports that the host publishes; the two latter have no `from_id` and no
`from_service`. `from_host` is the one that counts. `from_service`, `to_service`: the service, with its group if it
has one, as in `web.shop`. `to` is the address if no container has it: `to_kind` says whether it is a `host` of the
cluster, `unknown` in the network, or `outside` all of it, and then `to_id`, `to_service` and `to_host` are `""`.
`from_gone`, `to_gone`: the container is gone; `to` and `to_service` are then what it was called, and `to_kind` is
`unknown`.
`port` is null for echo requests. `openings` counts the refused ones as well. `linked`: whether a link leads from the
one to the other now; null where links do not matter, or an end is gone."""


SuggestedLink = TypedDict(
    "SuggestedLink",
    {
        "from": str,
        "from_id": str,
        "from_host": str,
        "to": str,
        "ports": list[str],
        "openings": int,
        "also": int,
        "command": str,
    },
)
"""A link that a container lacks for what it opened. `command` is for `from_host`. `also`: how many endpoints it opens
the way to beside those that were seen."""

UnusedLink = TypedDict("UnusedLink", {"from": str, "from_id": str, "from_host": str, "link": str})
"""A link by which nothing was opened."""


class PolicySuggestion(TypedDict):
    """The links that cover what containers of a network opened in the last hour."""

    network: str
    network_id: str
    policy: str
    seen: int
    """Flows."""
    covered: int
    """Pairs of containers that links allow already."""
    links: list[SuggestedLink]
    unused: list[UnusedLink]
    not_covered: int
    """Flows of or to containers that are gone: no link is suggested for them."""
    warnings: list[Notice]


class CheckFinding(TypedDict):
    """A problem that a check of `doctor` found."""

    thing: str
    message: str
    fix: str
    """A command, or a sentence if no command repairs it."""
    severity: Literal["failed", "warning"]


class CheckOutcome(TypedDict):
    """A check of `doctor`."""

    name: str
    """Stable."""
    says: str
    """What is true if it passes."""
    verdict: Literal["passed", "warning", "failed", "not known"]
    note: str
    """Why the verdict is not known."""
    findings: list[CheckFinding]
    left_out: int
    """Number of findings beyond those shown."""


class Doctor(TypedDict):
    """Checks of the host, and the kernel compared with the records."""

    healthy: bool
    """No check failed. Warnings do not count."""
    agent: Literal["answers", "silent"]
    """`silent`: no agent answered, the command line examined the host itself."""
    host: list[CheckOutcome]
    intent: list[CheckOutcome]
    """Empty if there is nothing to compare; `absent` says why."""
    cluster: list[CheckOutcome]
    """The warnings of `status`, as checks. Empty if no agent answers."""
    absent: str
    looked_at: dict[str, int]
    """How much was compared: `networks`, `containers`, `devices`, `entries`, `questions`."""


class ResourceRecord(TypedDict):
    """A resource record, as text."""

    name: str
    type: str
    ttl_s: int
    data: str


class PingResult(TypedDict):
    """The result for packets of one size to one address, or for one TCP connection."""

    address: str
    port: int | None
    size_bytes: int | None
    """Size of the whole packet; null for a connection."""
    sent: int
    received: int
    loss_percent: float
    rtt_min_s: float | None
    rtt_avg_s: float | None
    rtt_max_s: float | None
    trouble: str
    """`no answer`, `refused`, or the kernel's error; `""` when a reply came back."""


class PingHop(TypedDict):
    """A layer on the path, and what it decided."""

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
"""`host`: the host of the addresses, `""` outside the overlay. `lost_at`: a layer of PingHop, or `endpoint` for the
destination itself; `""` when every packet was answered. `trace` is present if requested or if packets were lost."""


class NameServerAnswer(TypedDict):
    """The answer of one name server of the host to the question of a `lookup`."""

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
    """Fully qualified, as found with the search list."""
    type: str
    status: str
    """DNS response code: `NOERROR`, `NXDOMAIN`, `SERVFAIL`, `REFUSED`; NOERROR without answers means no such type."""
    answers: list[ResourceRecord]
    asked_for: str
    """Id of the endpoint that the answer is for; `""`: a container in all networks that this host is in or, if that
    finds nothing, in all networks of the cluster."""
    reason: str
    """One sentence: the rule behind this answer, and which endpoints were left out and why."""
    servers: list[NameServerAnswer]
    """The answers of the host's name servers, if the name is forwarded to them; else empty."""
    warnings: NotRequired[list[Notice]]
    """Networks that are not known here, and names that several compose projects share."""


class Feed(TypedDict):
    """The table of services in the form of another program."""

    feed: str
    networks: list[str]
    """Names of the networks whose endpoints it has."""
    tag: str
    """Changes with the content. A request with `?known=TAG` is answered when the tag is another one, after 25 s with
    the same."""
    content: Any
    """What that program reads."""
    warnings: list[Notice]
    """Labels that are left out of it."""


class Dashboard(TypedDict):
    """Answer of `dashboard`. On loopback the address contains a secret."""

    url: str
    expires_at: str
    """Until then the page can be read with it; `""`: the page asks for a token."""
    warnings: list[Notice]


class AgentVersion(TypedDict):
    """The agent that answers."""

    version: str
    python: str
    kernel: str


class Problem(TypedDict):
    """An error (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    """Stable, for scripts."""
    exit_status: int
    """Of the command line."""
    thing: str
    """The object concerned; `""` if there is none."""
    hint: str
    """What to do."""
