"""Warnings of `status` about broken or degraded paths, each with a cure. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from netagent.control.present import Presenter, ProbeView, is_of_other_family
from netagent.interface import schema
from netagent.model.ids import HostId
from netagent.registry.view import AgentState, HostView

SHOWN = 3
"""Hosts named one by one; of further ones the notice gives the number."""


@dataclass(frozen=True, slots=True)
class PathEnds:
    """Address and port of this host's end of each path."""

    address: str
    vxlan_port: int
    gossip_port: int

    @property
    def overhead_bytes(self) -> int:
        """Return the bytes that VXLAN adds to a container's packet."""
        return 70 if ":" in self.address else 50


def path_notices(
    present: Presenter, sights: Mapping[HostId, ProbeView], place: PathEnds
) -> Iterable[schema.Notice]:
    """Return a notice for each path in trouble, the first SHOWN of each kind."""
    found: dict[str, list[schema.Notice]] = {}
    for host_id, host in present.view.hosts.items():
        if host_id == present.view.local:
            continue
        notice = _notice(present, host, sights.get(host_id, ProbeView()), place)
        if notice is not None:
            found.setdefault(notice["code"], []).append(notice)
    for code, notices in found.items():
        yield from notices[:SHOWN]
        if len(notices) > SHOWN:
            yield {
                "code": code,
                "message": f"{len(notices) - SHOWN} more paths have the same problem",
                "cure": "see `netagent members -o wide`",
            }


def udp_notices(
    present: Presenter, sights: Mapping[HostId, ProbeView], place: PathEnds
) -> Iterable[schema.Notice]:
    """Return one notice if agents answer this one, but not by UDP. A path that loses packets has another one."""
    members = [
        present.member(host, sights[host_id])
        for host_id, host in present.view.hosts.items()
        if host_id in sights
    ]
    deaf = sorted(
        (one["name"], one["address"]) for one in members if one.get("lacks_udp") and one["path"] != "lossy"
    )
    if deaf:
        shown = ", ".join(name for name, _ in deaf[:SHOWN])
        others = f" and {len(deaf) - SHOWN} more" if len(deaf) > SHOWN else ""
        ends = ", ".join(address for _, address in deaf[:SHOWN])
        yield {
            "code": "agent-udp",
            "message": f"UDP port {place.gossip_port} does not pass between this host and {shown}{others}: "
            f"{'its agent is' if len(deaf) == 1 else 'their agents are'} reached only by TCP or through other hosts, "
            "so a failure is noticed later, and a healthy host may be taken for dead",
            "cure": f"allow UDP port {place.gossip_port} between {place.address} and {ends}, in both directions; "
            "`netagent doctor` there names a rule that drops it",
        }


def checksum_notices(present: Presenter, broken: Collection[HostId]) -> Iterable[schema.Notice]:
    """Return one notice if checksums that this host's network card computes inside VXLAN arrive wrong."""
    hosts = [present.view.hosts[host_id] for host_id in broken if host_id in present.view.hosts]
    names = sorted(host.unique_name or host.name for host in hosts)
    if names:
        others = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        yield {
            "code": "checksum-offload",
            "message": f"checksums that the network card computes inside VXLAN arrive wrong at "
            f"{', '.join(names[:SHOWN])}{others}: the kernel computes them instead, which costs some throughput",
            "cure": "connections keep working; to regain the throughput, try another driver or firmware of the card, "
            "here or there: the agent notices when it works",
        }


def _notice(present: Presenter, host: HostView, sight: ProbeView, place: PathEnds) -> schema.Notice | None:
    member = present.member(host, sight)
    name, path = member["name"], sight.path
    if is_of_other_family(host, place.address):
        return {
            "code": "underlay-family",
            "message": f"{name} has the address {member['address']} and this host {place.address}: the hosts of a "
            "cluster need addresses of one family, so nothing passes between these two, not even between "
            "their agents",
            "cure": f"set `advertise` of this host or of {name} to an address of the other's family",
        }
    if host.agent is not AgentState.ALIVE or path is None:
        return None  # a dead agent has a notice of its own
    ends = f"{place.address} and {member['address']}"
    match member["path"]:
        case "degraded":
            wire = path.wanted_bytes + place.overhead_bytes
            return {
                "code": "path-degraded",
                "message": f"the path to {name} carries packets of at most {path.size_bytes} bytes, but a network "
                f"sends up to {path.wanted_bytes}: TCP is kept below, other large packets are lost or fragmented",
                "cure": f"let packets of {wire} bytes pass between {ends}, "
                f"or recreate the network with `--mtu {path.size_bytes}`",
            }
        case "lossy":
            return {
                "code": "path-lossy",
                "message": f"the path to {name} loses {member['loss_percent']:g} % of packets on the round trip",
                "cure": f"check the network between {ends}",
            }
        case "one-way":
            return {
                "code": "path-one-way",
                "message": f"packets from {name} arrive, but it does not answer ours" + _consequence(host),
                "cure": f"allow UDP port {place.vxlan_port} from {place.address} to {member['address']}",
            }
        case "down":
            return {
                "code": "path-down",
                "message": f"the agent of {name} answers, but no packets pass between the containers"
                + _consequence(host),
                "cure": f"allow UDP port {place.vxlan_port} between {ends}",
            }
    return None


def _consequence(host: HostView) -> str:
    return ": names lead to replicas on other hosts, if there are any" if host.is_unreached else ""
