"""The kinds of records that hosts replicate, as values.

On the wire a record is a msgpack array `[kind, version, …]` (netagent.registry.record_codec); here it is a frozen
value. Every record has exactly one writer, the host under whose id it is replicated. So `owner` is not part of a
record: the registry adds it.

    scope 0 (every host)          host, network, removal, attachment, grant, host address, forget,
                                  external service, external state, own name, service range, service address,
                                  published service, network options, tunnel, encryption, ring keys and sealed
                                  keys (netagent.model.ring_key)
    scope = a network's id        endpoint
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, NamedTuple, TypeAlias

from netagent.model.egress import NONE, OPEN, Egress
from netagent.model.ids import EndpointId, HostId, KeyId, NetworkId, OwnNameId, ServiceId
from netagent.model.locality import DEFAULT_WEIGHT, AnswerOrder, Balance
from netagent.model.publication import Publication
from netagent.model.ring_key import RingKeysRecord, SealedKeysRecord
from netagent.model.subnet import gateways_of

MAX_ALIASES: Final = 64
"""Bound of an endpoint's aliases in its record; beyond it: refused."""
MAX_REASON_CHARS: Final = 128
"""Most characters of the reason for a health: each change of it goes to all hosts of the network."""


class Policy(enum.Enum):
    """Which endpoints of a network may connect to each other."""

    OPEN = "open"
    """All of them."""
    AUDIT = "audit"
    """All of them; what LINKS would refuse is counted."""
    LINKS = "links"
    """Only to those that they are linked to."""


class Health(enum.Enum):
    """Health of an endpoint according to its host. DNS answers contain no endpoint that is UNHEALTHY or STARTING."""

    UNKNOWN = "unknown"
    """It has no health check."""
    STARTING = "starting"
    """It has a health check that has not succeeded since the start."""
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"

    @property
    def is_answering(self) -> bool:
        """True if DNS answers may contain it."""
        return self in (Health.UNKNOWN, Health.HEALTHY)


MAX_TIME_S: Final = 253_402_300_799
"""The last second that has four digits for its year."""
STOP: Final = "stop"
"""`Drain.by` of an endpoint whose container was asked to stop."""


@dataclass(frozen=True, slots=True)
class Drain:
    """Names of an endpoint, or of all endpoints of a host, are withdrawn although it runs."""

    since_s: int
    """Unix time in seconds, at most `MAX_TIME_S`."""
    by: str
    """Who asked: `stop` (`STOP`), or the name of the operator's account."""

    @property
    def since(self) -> datetime:
        """`since_s` as a date."""
        return datetime.fromtimestamp(self.since_s, UTC)

    @property
    def text(self) -> str:
        """Who asked, and since when, for people."""
        who = "asked to stop" if self.by == STOP else f"drained by {self.by}"
        return f"{who}, since {self.since:%Y-%m-%d %H:%M:%S} UTC"


@dataclass(frozen=True, slots=True)
class HostRecord:
    """A host, written by itself. `public_key` is the raw Ed25519 key whose hash is the host's id."""

    name: str
    public_key: bytes
    underlay: str
    """The host's outer address (IPv4 or IPv6) of VXLAN packets."""
    vxlan_port: int
    probe_address: str
    """IPv6 address on the probe network; the host's kernel answers there without the agent."""
    probe_mac: str
    zone: str = ""
    agent_version: str = ""
    going_down: bool = False
    """Names lead to none of its containers: it is about to leave or to power off, or `is_starting`."""
    routes: tuple[str, ...] = ()
    """CIDRs that the host reaches through devices other than netagent's, sorted; a network may not overlap them."""
    drain: Drain | None = None
    """Names lead to none of its endpoints, those that come included, although it stays."""
    is_starting: bool = False
    """Why it is `going_down`: it has come back, and has not restored all that its records say yet."""

    @property
    def away_text(self) -> str:
        """Say why names lead to none of its containers; empty if it does not withhold them."""
        if not self.going_down:
            return ""
        return "has just started and restores its containers" if self.is_starting else "is about to stop"


@dataclass(frozen=True, slots=True)
class NetworkRecord:
    """A network as its creator defined it; in a view, with the options that hosts have changed since
    (netagent.registry.network_options). `name` is a label; `network_id` is the identity."""

    network_id: NetworkId
    name: str
    vni: int
    subnets: tuple[str, ...]
    """CIDRs: at most one IPv4 and one IPv6, IPv4 first. An endpoint has one address in each, at one offset."""
    mtu_bytes: int
    internal: bool = False
    policy: Policy = Policy.OPEN
    multicast: bool = False
    host_access: bool = False
    revision: int = 0
    answer: AnswerOrder = AnswerOrder.SPREAD
    """Which replicas of a service its name leads to."""
    feed_rules: tuple[str, ...] | None = None
    """Domains that labels of its containers may claim in feeds (netagent.feeds.host_rule), sorted; None: all."""
    feed_labels: bool = True
    """Labels that feeds read are published. They may hold hashes of passwords."""
    refuses_shared_names: bool = False
    """A label that several groups have leads nowhere, except for members of one of them."""
    service_addresses: bool = False
    """Each service with replicas in it gets an address of its own."""
    egress: Egress = None
    """Where its containers may connect outside the cluster; None in an internal network, which has no way out."""

    @property
    def gateways(self) -> tuple[str, ...]:
        """Return the gateway addresses, the same on every host, "address/prefix length"; empty if it is internal.

        With `--host-access` the prefix length is that of a single host, as the host's own address has the subnet."""
        if self.internal:
            return ()
        cidrs = gateways_of(self.subnets)
        if not self.host_access:
            return cidrs
        addresses = (cidr.partition("/")[0] for cidr in cidrs)
        return tuple(f"{address}/{128 if ':' in address else 32}" for address in addresses)


@dataclass(frozen=True, slots=True)
class RemovalRecord:
    """A network is removed for good. Any host may write it; it takes precedence over the network record."""

    network_id: NetworkId


@dataclass(frozen=True, slots=True)
class AttachmentRecord:
    """The owner is in a network: it wants the network's records, and its peers send them."""

    network_id: NetworkId


@dataclass(frozen=True, slots=True)
class GrantRecord:
    """The owner of part of a network's address space hands it over to another host.

    Addresses are counted as offsets from the subnets' base, `first` to `last` inclusive, the same for IPv4 and
    IPv6. `hop` is one more than the hop by which the writer owned the range (the creator owns all at hop 0), so
    of all grants that cover an address, the one with the highest hop names its owner.
    """

    network_id: NetworkId
    first: int
    last: int
    to: HostId
    hop: int


@dataclass(frozen=True, slots=True)
class HostAddressRecord:
    """The owner has an address of its own in a network made with `--host-access`: at `offset` of each subnet."""

    network_id: NetworkId
    offset: int
    mac: str
    """MAC of its bridge in that network."""


@dataclass(frozen=True, slots=True)
class Port:
    """A port that an endpoint exposes by name."""

    name: str
    number: int
    protocol: str = "tcp"
    alpn: tuple[str, ...] = ()
    """The protocols that its server speaks behind TLS (`h2`, `http/1.1`, `h3`, `dot`), best first."""


@dataclass(frozen=True, slots=True)
class Group:
    """The project that an endpoint belongs to: compose's, or what the operator says (`netagent.group`)."""

    name: str
    service: str | None = None
    """The service of the project that it is a replica of."""
    directory: bytes | None = None
    """8 bytes of a hash of the project's working folder. Where two hosts have one project and service in different
    folders, two projects probably have one name."""

    def not_in(self, aliases: Iterable[str]) -> tuple[str, ...]:
        """Return the aliases without the group's service."""
        return tuple(alias for alias in aliases if alias != self.service)

    def added_to(self, aliases: Iterable[str], service: str) -> tuple[str, ...]:
        """Return the aliases for a reader of the release before, which knows no groups: with the group's service,
        unless it is the endpoint's `service` anyway."""
        extra = () if self.service in {None, service} else (self.service,)
        return (*aliases, *extra)[:MAX_ALIASES]


class ServiceKey(NamedTuple):
    """A service of a network. `group` is None for one of the network as a whole."""

    name: str
    group: str | None = None


def service_key(name: str, service: str, group: Group | None) -> ServiceKey:
    """Return the service that an endpoint is a replica of.

    A service that was chosen (`--service`) is the network's. A member of a group is otherwise a
    replica of the group's service, which is its own name where the group does not say.
    """
    if group is None or service not in {name, group.service}:
        return ServiceKey(service)
    return ServiceKey(group.service or name, group.name)


@dataclass(frozen=True, slots=True)
class HealthNote:
    """Since when an endpoint has its health, and why."""

    since_s: int
    """Unix time in seconds, at most `MAX_TIME_S`."""
    reason: str = ""
    """Printable, at most MAX_REASON_CHARS."""
    keeps_names: bool = False
    """The operator does not trust its checks: while it is unhealthy, a name leads to it if no other replica is up."""

    @property
    def since(self) -> datetime:
        """`since_s` as a date."""
        return datetime.fromtimestamp(self.since_s, UTC)


@dataclass(frozen=True, slots=True)
class EndpointRecord:
    """A container's interface: one record has its names and its path, so that they cannot converge separately."""

    endpoint_id: EndpointId
    network_id: NetworkId
    name: str
    service: str
    addresses: tuple[str, ...]
    """One for each subnet of the network, in the subnets' order, without prefix length."""
    mac: str
    aliases: tuple[str, ...] = ()
    """Without the service of its group, which compose makes an alias as well."""
    ports: tuple[Port, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    """Sorted by key."""
    health: Health = Health.UNKNOWN
    links: tuple[str, ...] = ()
    """Links of its sandbox: services of the network, or `NAME.HOST` for one endpoint; sorted. They allow something
    only if the network's policy is LINKS. The release before has none in other networks."""
    group: Group | None = None
    drain: Drain | None = None
    health_note: HealthNote | None = None
    weight: int = DEFAULT_WEIGHT
    """0 to MAX_WEIGHT: its share among the replicas of its service (netagent.model.locality)."""

    @property
    def is_answering(self) -> bool:
        """True if DNS answers may contain it, as far as its own host says."""
        return self.drain is None and self.health.is_answering

    @property
    def is_failing(self) -> bool:
        """True if it is unhealthy, and not drained as well."""
        return self.drain is None and self.health is Health.UNHEALTHY

    @property
    def is_kept(self) -> bool:
        """True if it is unhealthy and DNS answers contain it if no other replica is up."""
        return self.is_failing and self.health_note is not None and self.health_note.keeps_names

    @property
    def up_since_s(self) -> int | None:
        """Since when its checks succeed; None if it has none."""
        note = self.health_note
        return note.since_s if self.health is Health.HEALTHY and note is not None else None

    @property
    def service_key(self) -> ServiceKey:
        """The service that it is a replica of."""
        return service_key(self.name, self.service, self.group)

    @property
    def health_text(self) -> str:
        """Why its health keeps it out of names, and since when, for people; empty if it does not."""
        if self.health.is_answering:
            return ""
        note = self.health_note
        why = (note.reason if note else "") or _WHY[self.health]
        return f"{why}, since {note.since:%Y-%m-%d %H:%M:%S} UTC" if note else why


_WHY: Final = {
    Health.STARTING: "its health check has not succeeded yet",
    Health.UNHEALTHY: "its health check fails",
}


MAX_KEY_IDS: Final = 16
"""Most ring keys that one revocation names: more than a ring holds."""


@dataclass(frozen=True, slots=True)
class ForgetRecord:
    """The writer takes over the address space of a host that is gone for good; that host is fenced for ever."""

    host_id: HostId
    settled: bool = False
    """False: only an intention, which others may contest. True: every live host has acknowledged it (or an operator
    did not wait for them), and grants beside this record transfer the host's address space to the writer."""
    disputed: tuple[int, int] | None = None
    """The writer has withdrawn the eviction, because the host lives; but that host had evicted the writer as well.
    Its eviction of the writer does not count up to this version (epoch, sequence) of its log."""
    revoked: bool = False
    """An operator's word: the host comes back by an invitation only, and gets no ring key."""
    key_ids: tuple[KeyId, ...] = ()
    """With `revoked`: the ring keys that the host may know, rising (netagent.keys.sealing.key_id_of)."""
    compromised: bool = False
    """With `revoked`: the host may act for an attacker. No member talks to it, and no word of it counts against
    this one."""


# -- services that are no containers, and names of an operator's own --------------------------------------------
#
# An external service has outside addresses, a DNS name, or is a program of a host. Its owner is the host where it was
# added, but it does not run there (a program of a host excepted): when the owner dies it stays, and the owner's
# successor takes it over. So it has an id of its own, which no change of owner touches.
#
# What is found out about it (do its checks succeed, what does its DNS name resolve to, was it renewed in time) is an
# external state, written by the one host that asks: its owner, or another host while the owner is away. Of several
# the one with the highest turn is in force. A host that takes over writes one more than the last, so other hosts
# need not agree about when a host died.

MAX_ADDRESSES: Final = 32
"""Most addresses of one external service: given, or in the answer for its DNS name."""
MAX_TURN: Final = 1 << 31
"""A service sees fewer changes of the host that asks. At the end of the range only the owner
can follow another host: of equal turns, its own counts."""
MAX_DNS_TTL_S: Final = 86_400
MAX_TEXTS: Final = 16
MAX_TEXT_CHARS: Final = 255
MAX_OWN_NAME_LABELS: Final = 4


@dataclass(frozen=True, slots=True)
class TargetAddress:
    """Where an external service is reached."""

    address: str
    port: int | None = None

    @property
    def text(self) -> str:
        """As users type it: `192.0.2.50:5432`, `[2001:db8::1]:5432`."""
        if self.port is None:
            return self.address
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


@dataclass(frozen=True, slots=True)
class FixedAddresses:
    """Addresses outside the network."""

    addresses: tuple[TargetAddress, ...]
    """Sorted by address and port, without duplicates, never empty."""


@dataclass(frozen=True, slots=True)
class HostProgram:
    """A program of the owner, reached at the owner's own address in the network."""

    port: int


@dataclass(frozen=True, slots=True)
class DnsName:
    """A name outside the cluster, which the asking host resolves."""

    name: str
    """Lower case, without the last dot."""
    port: int | None = None


ServiceTarget: TypeAlias = FixedAddresses | HostProgram | DnsName


@dataclass(frozen=True, slots=True)
class ExternalServiceRecord:
    """A service that is no container, as an operator added it to a network. It never changes: to alter it, remove it
    and add another one."""

    service_id: ServiceId
    network_id: NetworkId
    name: str
    target: ServiceTarget
    added_s: int
    """Unix time in seconds: for people."""
    added_by: str
    """The account of the operator who added it."""
    ports: tuple[Port, ...] = ()
    """Ports by name, of all its addresses."""
    weight: int = DEFAULT_WEIGHT
    checks: tuple[str, ...] = ()
    """As the operator wrote them (netagent.checks.spec). A host that cannot read one does not ask."""
    ttl_s: int | None = None
    """It leaves names unless it is renewed within this time; None: it stays."""

    @property
    def is_watched(self) -> bool:
        """True if there is something to find out about it."""
        return bool(self.checks) or self.ttl_s is not None or isinstance(self.target, DnsName)


@dataclass(frozen=True, slots=True)
class AddressState:
    """What the checks say about one address."""

    address: str
    health: Health
    since_s: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Resolution:
    """The latest answer for a service's DNS name. It stands while no name server answers."""

    addresses: tuple[str, ...]
    """Sorted; those that clients may not be led to are left out."""
    ttl_s: int
    reason: str = ""
    """Why there are no addresses, or fewer than in the answer."""


@dataclass(frozen=True, slots=True)
class ExternalStateRecord:
    """What its writer found out about an external service."""

    service_id: ServiceId
    network_id: NetworkId
    turn: int
    states: tuple[AddressState, ...] = ()
    """Sorted by address; addresses that no check has been asked of are missing."""
    resolution: Resolution | None = None
    """None: not known yet, or it has no DNS name."""
    expired_s: int | None = None
    """Since when it has not been renewed; None: it is in time, or needs no renewal."""


@dataclass(frozen=True, slots=True)
class NameAlias:
    """Another name of the cluster: labels in front of a network."""

    network_id: NetworkId
    name: str
    """`web`, or `web.h1`."""


@dataclass(frozen=True, slots=True)
class NameData:
    """Data of the name itself."""

    addresses: tuple[str, ...] = ()
    """Sorted."""
    texts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class OwnNameRecord:
    """A name that an operator added to a network."""

    name_id: OwnNameId
    network_id: NetworkId
    name: str
    """Labels in front of the network's name: `shop`, `www.shop`, `*.shop`."""
    value: NameAlias | NameData
    added_s: int
    added_by: str


# -- service addresses ------------------------------------------------------------------------------------------
#
# A service of a network can have an address of its own, which the kernel of the client's host leads to one of the
# service's replicas at each connection. The addresses come from service ranges, subnets beside the network's own.
# The offset of an address in its range belongs to the host that owns the same offset of the network, so the grants
# that share out the network's space share out the addresses of services as well.
#
# Two halves of a cut may each make a range, and an address for one service: then all ranges and all addresses are in
# force, and names lead to the address whose owner has the smallest id.

MAX_SERVICE_PORTS: Final = 32
"""Bound of the ports of one service address; beyond it: refused."""
MAX_HOST_WEIGHTS: Final = 64
"""Bound of the hosts that have a weight of their own for one service; beyond it: refused."""


@dataclass(frozen=True, slots=True)
class ServiceRangeRecord:
    """Subnets for the addresses of a network's services, each as large as the network's own of that family."""

    network_id: NetworkId
    subnets: tuple[str, ...]
    """CIDRs, one for each subnet of the network, in the same order."""


@dataclass(frozen=True, slots=True, order=True)
class ServicePort:
    """A port of a service's address, and the port of its replicas that it leads to. For TCP and UDP."""

    number: int
    target: int


class ServiceAddressOrigin(enum.Enum):
    """Why a service has an address of its own."""

    OPERATOR = "operator"
    """`netagent service create`."""
    LABEL = "label"
    """A replica has the label `netagent.address=true`."""
    NETWORK = "network"
    """The network was made with `--service-addresses on`."""


@dataclass(frozen=True, slots=True)
class ServiceAddressRecord:
    """A service's own addresses, and how connections to them are shared out among its replicas."""

    network_id: NetworkId
    service: ServiceKey
    addresses: tuple[str, ...]
    """One for each subnet of the range that it is from, in the same order and at the same offset."""
    origin: ServiceAddressOrigin = ServiceAddressOrigin.OPERATOR
    ports: tuple[ServicePort, ...] = ()
    """Sorted by number. Only these are served; empty: all, each led to the same port."""
    balance: Balance = Balance.SPREAD
    host_weights: tuple[tuple[str, int], ...] = ()
    """Weights by name of a host, sorted by name: there each replica has this weight instead of its own."""
    is_sticky: bool = False
    """All connections of one sandbox go to one replica, as long as it stays."""
    keeps_failing: bool = False
    """While all replicas fail their checks, connections are led to them all the same."""
    keeps_connections: bool = False
    """Connections to a replica that is gone are not reset: for links between hosts that heal."""


MAX_PUBLISHED_PORTS: Final = 64
"""Bound of the ports of one published service; beyond it: refused. Each is 64 elements of a set in the kernel."""


@dataclass(frozen=True, slots=True)
class PublishedServiceRecord:
    """Ports of each host that has a replica of a service, forwarded to the replicas on that host."""

    network_id: NetworkId
    service: ServiceKey
    publication: Publication
    """Without an address of the host: it is for all hosts."""


# -- options of a network that hosts have changed (netagent.registry.network_options) --------------------------------

MAX_OPTION_CHANGES: Final = (1 << 32) - 1
"""The highest number. An option is changed less often, so a member made it up. Changes with it overrule each other by
digest."""
MAX_OVERRULED: Final = 32
"""Bound of the changes with the highest number that one overrules; beyond it: others stay."""
MAX_OPTIONS: Final = 32
"""Bound of the options in one record; beyond it: refused. A later release may have more of them than this one."""
MAX_CHANGED_BY_CHARS: Final = 64


DIGEST_BYTES: Final = 16


class NetworkOption(enum.Enum):
    """An option that can be changed, by its name in JSON."""

    POLICY = "policy"
    INTERNAL = "internal"
    MULTICAST = "multicast"
    HOST_ACCESS = "host_access"
    ANSWER_ORDER = "answer_order"
    SHARED_NAMES = "shared_names"
    SERVICE_ADDRESSES = "service_addresses"
    EGRESS = "egress"

    @property
    def words(self) -> str:
        """As users type it."""
        return _WORDS.get(self, "--" + self.value.replace("_", "-"))


_WORDS: Final = {NetworkOption.ANSWER_ORDER: "--answer"}

OPTION_VALUES: Final[Mapping[NetworkOption, tuple[str, ...]]] = {
    NetworkOption.POLICY: ("open", "audit", "links"),
    NetworkOption.INTERNAL: ("no", "yes"),
    NetworkOption.MULTICAST: ("yes", "no"),
    NetworkOption.HOST_ACCESS: ("yes", "no"),
    NetworkOption.ANSWER_ORDER: ("spread", "nearest", "zone"),
    NetworkOption.SHARED_NAMES: ("answer", "refuse"),
    NetworkOption.SERVICE_ADDRESSES: ("off", "on"),
}
"""The values of each option, the stricter one later. EGRESS has what netagent.model.egress can write."""


def strictness(option: NetworkOption, value: str) -> tuple[int, str]:
    """Order the values of an option, the stricter one later. Lists of targets are in some order, the same on all
    hosts."""
    if option is NetworkOption.EGRESS:
        return {OPEN: 0, NONE: 2}.get(value, 1), value
    return OPTION_VALUES[option].index(value), ""


@dataclass(frozen=True, slots=True)
class OptionChange:
    """A value that a host has given an option."""

    option: NetworkOption
    value: str
    """One of OPTION_VALUES, or the canonical text of an egress."""
    number: int
    """1 to MAX_OPTION_CHANGES."""
    changed_s: int
    """Unix time in seconds: for people."""
    changed_by: str
    """The account of the operator, for people."""
    overrules: tuple[bytes, ...] = ()
    """Digests of changes with the highest number that do not count beside this one, which has it too."""

    @property
    def digest(self) -> bytes:
        """Tells this change from every other, those included that are not written yet."""
        texts = (self.option.value, self.value, str(self.number), str(self.changed_s), self.changed_by)
        written = b"\0".join([*(one.encode() for one in texts), *self.overrules])
        return hashlib.sha256(written).digest()[:DIGEST_BYTES]

    @property
    def rank(self) -> tuple[int, tuple[int, str]]:
        """Of the changes of one option the one with the highest rank counts."""
        return self.number, strictness(self.option, self.value)

    @property
    def changed(self) -> datetime:
        """`changed_s` as a date."""
        return datetime.fromtimestamp(self.changed_s, UTC)


@dataclass(frozen=True, slots=True)
class NetworkOptionsRecord:
    """What one host has changed of a network."""

    network_id: NetworkId
    changes: tuple[OptionChange, ...]
    """At most one for each option, in the order of NetworkOption, never empty."""


# -- encryption ---------------------------------------------------------------------------------------------------

MAX_ENCRYPTION_REVISION: Final = 2**31 - 1


@dataclass(frozen=True, slots=True)
class TunnelRecord:
    """The owner's end of the encrypted tunnel. Its address there follows from the owner's id and `salt`
    (netagent.model.address.tunnel)."""

    public_key: bytes
    """Of WireGuard: X25519, 32 octets."""
    port: int
    salt: int = 0
    takes_direct: bool = False
    """Whether the host takes TCP segments that come through the tunnel without VXLAN (netagent.datapath.direct)."""


class EncryptionStage(enum.IntEnum):
    """How far a host is on the way from packets in the clear to packets that are encrypted. It moves one step at a
    time, and back the same way (netagent.model.encryption_switch)."""

    CLEAR = 0
    """It sends and takes VXLAN in the clear, and has no tunnel."""
    READY = 1
    """It has a tunnel, with a session to every live host, and takes VXLAN from it as well."""
    SENDING = 2
    """It sends by the tunnel alone, and still takes VXLAN in the clear."""
    FENCED = 3
    """Its firewall lets VXLAN pass the tunnel alone."""


@dataclass(frozen=True, slots=True)
class EncryptionRecord:
    """Whether containers' packets between hosts are to be encrypted, and how far the owner is on the way there. Each
    host repeats the decision that counts as its own (netagent.model.encryption_switch), so that it outlives every
    host."""

    is_on: bool
    revision: int
    changed_s: int
    changed_by: str
    decided_on: HostId | None = None
    """The host on which an operator decided it; None: not told."""
    stage: EncryptionStage = EncryptionStage.CLEAR
    is_reached: bool = True
    """False: the owner is about to be at `stage`, and was at a neighbouring one before."""

    @property
    def decision(self) -> tuple[int, bool, int, str]:
        """What all hosts repeat. Of several decisions the highest counts: the later one, and of two at once the one
        that encrypts."""
        return self.revision, self.is_on, self.changed_s, self.changed_by

    @property
    def target(self) -> EncryptionStage:
        """Where the decision leads."""
        return EncryptionStage.FENCED if self.is_on else EncryptionStage.CLEAR


Record: TypeAlias = (
    HostRecord
    | NetworkRecord
    | RemovalRecord
    | AttachmentRecord
    | GrantRecord
    | HostAddressRecord
    | EndpointRecord
    | ForgetRecord
    | ExternalServiceRecord
    | ExternalStateRecord
    | OwnNameRecord
    | ServiceRangeRecord
    | ServiceAddressRecord
    | PublishedServiceRecord
    | NetworkOptionsRecord
    | RingKeysRecord
    | SealedKeysRecord
    | TunnelRecord
    | EncryptionRecord
)


@dataclass(frozen=True, slots=True)
class Link:
    """`--link SERVICE[:ALIAS]`: in this one sandbox `alias` resolves to `service`. The alias is local to a host; the
    service is also in the endpoint's record (EndpointRecord.links), for the policy LINKS."""

    service: str
    """A service, `service.network` or a fully qualified name of the cluster."""
    alias: str
