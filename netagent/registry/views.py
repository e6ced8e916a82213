"""The values of a view: what this host knows of hosts, networks and endpoints.

They join what the owner says (the record) with what we see ourselves (does its agent answer, does its kernel answer),
and keep the two apart, because they fail apart.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from netagent.model.ids import EndpointId, HostId, NetworkId
from netagent.model.records import (
    EndpointRecord,
    HostRecord,
    NetworkRecord,
    OptionChange,
    ServiceAddressRecord,
    ServiceKey,
    ServiceRangeRecord,
)
from netgossip.types import Member, MemberState, Version


class AgentState(enum.Enum):
    """What the membership says of a host's agent. It says nothing about the host's containers."""

    ALIVE = "alive"
    SUSPECT = "suspect"
    DEAD = "dead"
    LEFT = "left"
    UNKNOWN = "unknown"
    """We hold records of the host, but the membership has not named it (just restarted, or long removed)."""


_AGENT_STATES = {
    MemberState.ALIVE: AgentState.ALIVE,
    MemberState.SUSPECT: AgentState.SUSPECT,
    MemberState.DEAD: AgentState.DEAD,
    MemberState.LEFT: AgentState.LEFT,
}


def short_id(identifier: str) -> str:
    """The first eight digits: for people, never for programs."""
    return identifier[:8]


@dataclass(frozen=True, slots=True)
class HostView:
    """A host as seen from here."""

    host_id: HostId
    record: HostRecord | None = None
    """None until the owner's record arrives; the membership may be faster."""
    member: Member | None = None
    answers: bool | None = None
    """True if its kernel answers on the probe network; None: not asked yet."""
    agreed_silent: bool = False
    """Several hosts agree that its kernel is silent (netagent.probes.liveness_votes)."""
    unique_name: str = ""
    """`<name>`, or `<name>-<4 hex>` when a host with a smaller id has the same name."""
    is_unreached: bool = False
    """This host gets no answer from it over the overlay, for so long that no name with another replica leads there
    (netagent.probes.reach)."""

    @property
    def agent(self) -> AgentState:
        """What the membership says of its agent."""
        return AgentState.UNKNOWN if self.member is None else _AGENT_STATES[self.member.state]

    @property
    def is_gone(self) -> bool:
        """True when agent and kernel are away: the agent is declared dead and the kernel does not answer us, or the
        agent is still suspected and several hosts agree that the kernel answers none of them."""
        if self.agent is AgentState.DEAD:
            return self.answers is False or self.agreed_silent
        return self.agent is AgentState.SUSPECT and self.agreed_silent

    @property
    def is_live(self) -> bool:
        """True while its agent answers, or may still."""
        return self.agent in (AgentState.ALIVE, AgentState.SUSPECT)

    @property
    def address(self) -> str:
        """Its underlay address: of its record, or the membership's while there is none; "" when neither is known."""
        if self.record is not None:
            return self.record.underlay
        return "" if self.member is None else self.member.address[0]

    @property
    def name(self) -> str:
        """The name the host gave itself, or its short id while that is not known."""
        return short_id(self.host_id) if self.record is None else self.record.name


@dataclass(frozen=True, slots=True)
class NetworkView:
    """A network that is in force: not removed, and not one that yielded to another of the same name."""

    record: NetworkRecord
    """With the options that hosts have changed."""
    owner: HostId
    """The host that wrote the revision in force."""
    creator: HostId | None
    """The host that wrote revision 0 and so holds the whole address space at hop 0; None while that record is
    unknown."""
    holds_name: bool = True
    """False when a network with a smaller id has the same name and both are in use."""
    holds_vni: bool = True
    """False when a network with a smaller id has the same VNI: this one must not be built in the kernel."""
    changes: tuple[tuple[OptionChange, HostId], ...] = ()
    """The changes of its options that count, each with the host that wrote it."""

    @property
    def network_id(self) -> NetworkId:
        """The identity; the name is a label."""
        return self.record.network_id

    @property
    def name(self) -> str:
        """The label as created."""
        return self.record.name

    @property
    def unique_name(self) -> str:
        """The name to show and type: `<name>`, or `<name>-<4 hex>` for the one that lost the name."""
        return self.name if self.holds_name else f"{self.name}-{self.network_id[:4]}"


@dataclass(frozen=True, slots=True)
class EndpointView:
    """An endpoint and the host that owns it."""

    record: EndpointRecord
    owner: HostId
    version: Version

    @property
    def endpoint_id(self) -> EndpointId:
        """The identity."""
        return self.record.endpoint_id

    @property
    def network_id(self) -> NetworkId:
        """The network it is in."""
        return self.record.network_id


@dataclass(frozen=True, slots=True)
class ServiceView:
    """All endpoints of one service in one network, visible or not, sorted by endpoint id."""

    network_id: NetworkId
    name: str
    endpoints: tuple[EndpointView, ...]
    group: str | None = None
    """The group whose service it is; None: the network's."""


@dataclass(frozen=True, slots=True)
class ServiceRangeView:
    """A service range in force, and the first of the hosts that wrote it."""

    owner: HostId
    record: ServiceRangeRecord


@dataclass(frozen=True, slots=True)
class ServiceAddressView:
    """A service address in force, and the host that wrote it."""

    owner: HostId
    record: ServiceAddressRecord

    @property
    def network_id(self) -> NetworkId:
        """The network whose service it is."""
        return self.record.network_id

    @property
    def service(self) -> ServiceKey:
        """The service in its network."""
        return self.record.service


class ConflictKind(enum.Enum):
    """What two records both claim."""

    HOST_NAME = "host-name"
    NETWORK_NAME = "network-name"
    VNI = "vni"
    SUBNET = "subnet"
    ADDRESS = "address"
    MAC = "mac"
    OUTSIDE = "address-outside-network"
    ENDPOINT_ID = "endpoint-id"
    SERVICE_RANGE = "service-range"
    SERVICE_ADDRESS = "service-address"
    RECORD = "refused-record"
    """Records that no release writes: a request for the same would be refused."""


@dataclass(frozen=True, slots=True, order=True)
class Conflict:
    """Two records that can't both hold. Decided in the same way on every host, and shown until it is solved."""

    kind: str
    """A ConflictKind's value."""
    loser: str
    """Id of the host, network or endpoint that yields; of a service's range or address: of its network; of refused
    records: of the host that wrote them."""
    holder: str
    """Id of the one that keeps what both claim; empty when none does (an address outside its network, the
    MAC of another address, a refused record)."""
    text: str
    """One sentence for people."""

    @property
    def cure(self) -> str:
        """What an operator can do about it."""
        return _CURES[ConflictKind(self.kind)]


_ANEW = "on its host `netagent detach` it and attach it again"
_CURES = {
    # A reinstalled machine has its old name, and the cluster still knows its former identity.
    ConflictKind.HOST_NAME: "`netagent forget` the host that is gone for good; or set another `name` on one of them "
    "and restart its agent",
    ConflictKind.NETWORK_NAME: "detach the containers of one of them, then `netagent network rm` it; or keep both",
    ConflictKind.VNI: "`netagent network rm` it, and create it again",
    ConflictKind.SUBNET: "`netagent network rm` one of them, and create it again with another --subnet",
    ConflictKind.ADDRESS: _ANEW,
    ConflictKind.MAC: _ANEW,
    ConflictKind.OUTSIDE: _ANEW,
    ConflictKind.ENDPOINT_ID: _ANEW,
    ConflictKind.SERVICE_RANGE: "its services get addresses of another range within a minute or two, see "
    "`netagent services`",
    ConflictKind.SERVICE_ADDRESS: "its host gives the service another address within a minute or two, see "
    "`netagent services`",
    ConflictKind.RECORD: "bring it and this host to one release; if they are, it runs a changed program: "
    "`netagent revoke` it",
}
