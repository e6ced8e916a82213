"""Commands that write what operators have made of the cluster to a file, and make the cluster as a file says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, Literal

from netagent.interface.command import Command, Fields, argument, option, repeated, switch
from netagent.interface.containers import PortOfAttach
from netagent.interface.role import Role
from netagent.interface.services import BALANCES
from netagent.interface.tokens import MAX_TTL_S, MIN_TTL_S

if TYPE_CHECKING:
    from netagent.interface import schema  # noqa: F401 - the answers, in quotes

TITLE = "The cluster as a file"

SECTIONS: Final[Mapping[str, str]] = {
    "networks": "network",
    "services": "service",
    "service_addresses": "service_address",
    "names": "name",
    "published": "publish",
    "tokens": "token",
}
"""Lists of an apply, and what they are called in a file."""


def section_of(field: str, index: int, name: str) -> str:
    """Return how a file shows an item of a list: `[network.app]`, `[[service]] 2 (pg)`."""
    section = SECTIONS[field]
    if field == "networks":
        return f"[{section}.{name}]"
    return f"[[{section}]] {index + 1}" + (f" ({name})" if name else "")


class ExportCommand(
    Command["schema.Export"],
    command="export",
    route="GET /v1/export",
    role=Role.READ,
    brief="write networks, services and names that operators made as a file for `apply`",
    examples="netagent export > cluster.toml\nsudo netagent export --tokens > h1.toml",
):
    """Print the networks of the cluster with their options, outside services, addresses of services, published
    services, and names that operators added, as TOML, in the form that `netagent apply` reads."""

    tokens: bool = switch(
        "--tokens", help="also the tokens of this host, without their secrets", role=Role.SOCKET
    )


class DescribedNetwork(Fields):
    """A network in a file. What is missing is not changed, or has its default in a new network."""

    name: str = argument()
    subnets: list[str] = repeated()
    mtu_bytes: int | None = option(bounds=(576, 65535))
    internal: bool | None = option()
    policy: Literal["open", "audit", "links"] | None = option(choices=("open", "audit", "links"))
    answer_order: Literal["spread", "nearest", "zone"] | None = option(choices=("spread", "nearest", "zone"))
    multicast: bool | None = option()
    host_access: bool | None = option()
    shared_names: Literal["answer", "refuse"] | None = option(choices=("answer", "refuse"))
    service_addresses: Literal["off", "on"] | None = option(choices=("off", "on"))
    egress: str | None = option()
    feed_rules: list[str] = repeated()
    feed_labels: bool | None = option()


class DescribedService(Fields):
    """Something added to an outside service, in a file. Several may have one name."""

    network: str = argument()
    name: str = argument()
    addresses: list[str] = repeated()
    dns_name: str = option(default="")
    ports: list[PortOfAttach] = repeated()
    weight: int | None = option(bounds=(0, 1000))
    checks: list[str] = repeated()


class DescribedServiceAddress(Fields):
    """The address of a service in a file. What is missing is not changed, or has its default in a new one."""

    network: str = argument()
    name: str = argument()
    group: str = option(default="")
    ports: list[str] = repeated()
    balance: Literal["spread", "nearest", "zone", "first"] | None = option(choices=BALANCES)
    weights: list[str] = repeated()
    sticky: bool | None = option()
    all_failing: Literal["hide", "keep"] | None = option(choices=("hide", "keep"))
    keep_connections: bool | None = option()


class DescribedName(Fields):
    """An own name in a file."""

    name: str = argument()
    cname: str = option(default="")
    addresses: list[str] = repeated()
    texts: list[str] = repeated()


class DescribedPublication(Fields):
    """A port of all hosts that leads to a service, in a file."""

    network: str = argument()
    name: str = argument()
    group: str = option(default="")
    port: str = argument()


class DescribedToken(Fields):
    """A token of the host where the file is applied. The file never has its secret."""

    name: str = argument()
    role: Literal["read", "attach", "admin"] = argument(choices=("read", "attach", "admin"))
    networks: list[str] = repeated()
    ttl_s: float | None = option(bounds=(MIN_TTL_S, MAX_TTL_S))


NETWORK_STEP_S = 8.0
"""At most, where hosts do not answer: it waits for them several times, and audits on the way to `links`."""
STEP_S = 3.0


class ApplyCommand(
    Command["schema.Applied"],
    command="apply",
    route="POST /v1/apply",
    brief="make networks, services, names and tokens as a file says",
    examples="netagent export > cluster.toml\n"
    "sudo netagent apply cluster.toml --dry-run\n"
    "sudo netagent apply cluster.toml --yes",
):
    """Show how the cluster differs from a file, and on agreement make it as the file says. What the file does not
    mention stays as it is. Repeating the command changes nothing. With --dry-run the exit status is 1 if there is a
    difference."""

    file: str = argument(
        metavar="FILE", help="TOML as `netagent export` writes it; -: standard input", is_sent=False
    )
    networks: list[DescribedNetwork] = repeated()
    services: list[DescribedService] = repeated()
    service_addresses: list[DescribedServiceAddress] = repeated()
    names: list[DescribedName] = repeated()
    published: list[DescribedPublication] = repeated()
    tokens: list[DescribedToken] = repeated(role=Role.SOCKET)
    dry_run: bool = switch("--dry-run", help="only show the differences")
    yes: bool = switch("--yes", help="do not ask", is_sent=False)
    token_dir: str = option(
        "--token-dir",
        default="",
        metavar="DIR",
        help="write each new token to DIR/NAME.token, for root alone (default: show it, and only on a terminal)",
        is_sent=False,
    )

    @property
    def work_s(self) -> float:
        """For all steps, one after the other."""
        if self.dry_run:
            return 0.0
        others: list[Sequence[object]] = [
            self.services,
            self.service_addresses,
            self.names,
            self.published,
            self.tokens,
        ]
        return NETWORK_STEP_S * len(self.networks) + STEP_S * sum(len(one) for one in others)
