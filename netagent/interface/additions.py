"""Commands of what operators add to a network beside containers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from netagent.interface.cluster import Watching
from netagent.interface.command import Command, argument, option, repeated
from netagent.interface.containers import PortOfAttach
from netagent.interface.notation import duration_of, filled, ports_of
from netagent.interface.role import Role

if TYPE_CHECKING:
    from netagent.interface import schema  # noqa: F401 - the answers, in quotes

TITLE = "Services that are no containers, and names of your own"

MIN_TTL_S = 5.0
MAX_TTL_S = 366 * 86400.0


class ServiceAddCommand(
    Command["schema.ServiceAdded"],
    command="add",
    within="service",
    route="POST /v1/services",
    brief="Add a service that is no container to a network.",
    examples="sudo netagent service add pg --network app --address 192.0.2.50:5432 --check tcp:5432\n"
    "sudo netagent service add db --network app --name db.example.com\n"
    "sudo netagent service add node --network app --host-port 9100",
    creates=True,
):
    """Add a service that is no container to a network: outside addresses, a DNS name outside, or a program of
    this host. It gets the names of a service. Repeating the command changes nothing, or renews a service
    with --ttl."""

    name: str = argument(metavar="NAME", help="its name in the network", read=filled("service"))
    network: str = argument("--network", metavar="NET", help="the network, by name or id")
    addresses: list[str] = repeated(
        "--address",
        metavar="ADDR[:PORT]",
        help="an address outside all networks; may be repeated",
        is_exclusive=True,
    )
    host_port: int | None = option(
        "--host-port",
        type=int,
        metavar="PORT",
        help="a program of this host; the network must have been created with --host-access",
        bounds=(1, 65535),
        is_exclusive=True,
    )
    dns_name: str = option(
        "--name",
        default="",
        metavar="DNS[:PORT]",
        help="a name outside, which this host resolves; its TTL is kept",
        is_exclusive=True,
    )
    ports: list[PortOfAttach] = repeated(
        "--expose",
        metavar="[NAME=]PORT[/PROTOCOL]",
        help="a port to announce in SRV records by name, such as postgres=5432; may be repeated",
        read=ports_of,
    )
    weight: int | None = option(
        "--weight",
        type=int,
        metavar="N",
        help="its share among what was added to the service: 0 to 1000 (default: 100); 0: only if there is no other",
        bounds=(0, 1000),
    )
    checks: list[str] = repeated(
        "--check",
        metavar="CHECK",
        help="asked by this host at each of its addresses: http:PORT/PATH, https:PORT/PATH or tcp:PORT, and how "
        "often, as for `attach`; may be repeated",
    )
    ttl_s: float | None = option(
        "--ttl",
        metavar="TIME",
        help="it leaves names unless the command is repeated within this time",
        read=duration_of,
        bounds=(MIN_TTL_S, MAX_TTL_S),
    )


class NameAddCommand(
    Command["schema.OwnName"],
    command="add",
    within="name",
    route="POST /v1/names",
    brief="Add a name to a network.",
    examples="sudo netagent name add shop.app --cname web\n"
    "sudo netagent name add '*.shop.app' --cname web\n"
    "sudo netagent name add printer.app --address 192.0.2.77",
    creates=True,
):
    """Add a name to a network: another name of a service, or addresses and texts. A wildcard stands for all names
    below it that have none of their own. A container keeps its name. Repeating the command changes nothing."""

    name: str = argument(
        metavar="NAME.NETWORK",
        help="at most four labels in front of the network's name; the first may be *",
        read=filled("name"),
    )
    cname: str = option(
        "--cname",
        default="",
        metavar="NAME",
        help="what it is another name of: NAME, NAME.NETWORK or a full name of the cluster",
    )
    addresses: list[str] = repeated(
        "--address", metavar="ADDR", help="an address outside all networks; may be repeated"
    )
    texts: list[str] = repeated("--txt", metavar="TEXT", help="a TXT record; may be repeated")


class NameListCommand(
    Watching["schema.Listing[schema.OwnName]"],
    command="ls list",
    within="name",
    route="GET /v1/names",
    role=Role.READ,
    brief="List the names that operators added.",
    examples="netagent name ls\nnetagent name ls --network app",
    order="network name id",
):
    """List the names that operators added to the networks of the cluster."""

    network: str = option("--network", default="", metavar="NET", help="only those in this network")


class NameRemoveCommand(
    Command["schema.OwnNameRemoved"],
    command="rm remove",
    within="name",
    route="DELETE /v1/names/{name}",
    brief="Remove a name that this host has added.",
    examples="sudo netagent name rm shop.app",
):
    """Remove a name that this host has added. Other hosts remove what was added there."""

    name: str = argument(metavar="NAME.NETWORK", help="as it was added", read=filled("name"))
