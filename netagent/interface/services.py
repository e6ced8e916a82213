"""Commands of services' own addresses: one for a service, which stays while its replicas come and go."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from netagent.interface.command import Command, argument, option, repeated, switch
from netagent.interface.notation import filled
from netagent.interface.role import Role

if TYPE_CHECKING:
    from netagent.interface import schema  # noqa: F401 - the answers, in quotes

A_co = TypeVar("A_co", covariant=True)

TITLE = "Services with an address of their own"

BALANCES = ("spread", "nearest", "zone", "first")

_BALANCE = (
    "which replicas connections are led to: spread (default): all, by weight; nearest: the nearest ones; zone: those "
    "in the zone of the client's host, or else the nearest ones; first: one, for the clients of all hosts the same"
)


def _group() -> Any:
    return option(
        "--group", default="", metavar="NAME", help="the group (compose project) whose service it is"
    )


class ServiceCreateCommand(
    Command["schema.ServiceCreated"],
    command="create",
    within="service",
    route="POST /v1/service-addresses",
    brief="Give a service an address of its own.",
    examples="sudo netagent service create web --network app\n"
    "sudo netagent service create web --network app --port 80:8080 --balance nearest\n"
    "sudo netagent service create db --network app --group shop --weight h1=200 --sticky",
    creates=True,
):
    """Give a service an address of its own. The kernel of the client's host leads each connection to one of the
    service's replicas; the address stays while they come and go, also while there is none. Repeating the command
    changes nothing; with other options it is refused."""

    name: str = argument(metavar="NAME", help="the service", read=filled("service"))
    network: str = argument("--network", metavar="NET", help="the network, by name or id")
    group: str = _group()
    ports: list[str] = repeated(
        "--port",
        metavar="PORT[:PORT]",
        help="a port of the address, and the port of the replicas that it leads to (default: the same); may be "
        "repeated (default: all ports)",
    )
    balance: Literal["spread", "nearest", "zone", "first"] = option(
        "--balance", default="spread", choices=BALANCES, help=_BALANCE
    )
    weights: list[str] = repeated(
        "--weight",
        metavar="HOST=N",
        help="the weight of each replica on this host, instead of its own: 0 to 1000; 0: only if there is no other; "
        "may be repeated",
    )
    sticky: bool = switch(
        "--sticky", help="lead all connections of one container to one replica, while it is there"
    )
    all_failing: Literal["hide", "keep"] = option(
        "--all-failing",
        default="hide",
        choices=("hide", "keep"),
        help="while all replicas fail their checks: refuse connections (hide, the default), or lead them to these",
    )
    keep_connections: bool = switch(
        "--keep",
        help="do not reset connections to a replica that is gone: for links between hosts that fail and heal",
    )


class _OfService(Command[A_co], Generic[A_co]):
    service: str = argument(
        metavar="NAME",
        help="its name, NAME.NETWORK, NAME.GROUP.NETWORK, or (inspect, set) an address of its own",
        read=filled("service"),
    )
    network: str = option(
        "--network", default="", metavar="NET", help="the network, if several have such a service"
    )
    group: str = _group()


class ServiceSetCommand(
    _OfService["schema.ServiceCreated"],
    command="set",
    within="service",
    route="POST /v1/service-addresses/{service}",
    brief="Change the options of a service's address.",
    examples="sudo netagent service set web --balance nearest\n"
    "sudo netagent service set web --weight h1=0 --weight h2=default\n"
    "sudo netagent service set web --port none --sticky off",
):
    """Change the options of a service's address, on the host that gave it. What is not given stays as it is."""

    ports: list[str] = repeated(
        "--port",
        metavar="PORT[:PORT]|none",
        help="the ports that it has from now on; none: no port of its own, so all are led to the same ports",
    )
    balance: Literal["spread", "nearest", "zone", "first"] | None = option(
        "--balance", choices=BALANCES, help=_BALANCE
    )
    weights: list[str] = repeated(
        "--weight",
        metavar="HOST=N|HOST=default|none",
        help="the weight of each replica on this host; default: each has its own again; none: so on all hosts",
    )
    sticky: Literal["on", "off"] | None = option(
        "--sticky",
        choices=("on", "off"),
        help="on: lead all connections of one container to one replica, while it is there",
    )
    all_failing: Literal["hide", "keep"] | None = option(
        "--all-failing",
        choices=("hide", "keep"),
        help="while all replicas fail their checks: refuse connections (hide), or lead them to these (keep)",
    )
    keep_connections: Literal["on", "off"] | None = option(
        "--keep", choices=("on", "off"), help="on: do not reset connections to a replica that is gone"
    )


class ServiceRemoveCommand(
    _OfService["schema.ServiceRemoved"],
    command="rm remove",
    within="service",
    route="DELETE /v1/services/{service}",
    brief="Remove a service's address, and what this host has added to it.",
    examples="sudo netagent service rm web --network app",
):
    """Remove the address of a service, and what `service add` has added to it, as far as this host gave or added
    it. The service's replicas stay, and names lead to them. Other hosts remove what was given there."""


class ServiceInspectCommand(
    _OfService["schema.ServiceDescription"],
    command="inspect",
    within="service",
    route="GET /v1/services/{service}",
    role=Role.READ,
    brief="Show where a service's address leads to.",
    examples="netagent service inspect web --network app",
):
    """Show the address of a service, its options, the replicas that this host leads connections to, and why it
    leads none to the others."""
