"""The arguments of each command; netagent.cli.grammar says which command takes which."""

from __future__ import annotations

import argparse
from typing import Any

KEY_PREFIX = "key_"
"""Prefix of configuration keys among the parsed arguments, where `name` and others mean something else."""


def agent(parser: argparse.ArgumentParser) -> None:
    """`netagent agent`: every configuration key is a flag."""
    from netagent.config import KEYS

    parser.set_defaults(flags={})
    parser.add_argument(
        "--config", metavar="FILE", help="read this file instead of /etc/netagent/netagent.toml"
    )
    group = parser.add_argument_group("configuration keys")
    for key in KEYS:
        told = key.default in (None, "", ()) or "default:" in key.help
        default = "" if told else f" (default: {_shown(key.default)})"
        group.add_argument(
            key.flag,
            metavar=key.metavar,
            dest=KEY_PREFIX + key.name,
            default=argparse.SUPPRESS,
            help=(key.help + default).replace("%", "%%"),
        )


def _shown(default: object) -> str:
    if isinstance(default, bool):
        return "true" if default else "false"
    return ",".join(default) if isinstance(default, tuple) else str(default)


def invite(parser: argparse.ArgumentParser) -> None:
    """`netagent invite`."""
    parser.add_argument(
        "--ttl", default="1h", metavar="TIME", help="how long it works: 90s, 30m, 1h (default), 2d"
    )
    parser.add_argument(
        "--uses", default=1, type=int, metavar="N", help="how many hosts it lets in (default: 1)"
    )


def join(parser: argparse.ArgumentParser) -> None:
    """`netagent join`."""
    parser.add_argument("addresses", nargs="*", metavar="ADDR", help="HOST[:PORT] of members, tried first")
    parser.add_argument("--token-file", metavar="FILE|-", help="file with the token, or - for standard input")


def forget(parser: argparse.ArgumentParser) -> None:
    """`netagent forget`."""
    parser.add_argument(
        "hosts", nargs="*", metavar="HOST", help="names or ids, as `netagent members` shows them"
    )
    parser.add_argument(
        "--dead-for",
        metavar="TIME",
        help="only hosts that have been silent for at least this long: 30m, 72h, 7d; without HOST, all such hosts",
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="also forget a live host, and do not wait for the other hosts: two containers may get the same address",
    )


def endpoint(parser: argparse.ArgumentParser) -> None:
    """Commands on one endpoint."""
    parser.add_argument("endpoint", metavar="ENDPOINT", help="its name, NAME.NETWORK, or id")


def drain(parser: argparse.ArgumentParser) -> None:
    """Commands that withdraw all names of a host."""
    parser.add_argument(
        "--drain", metavar="TIME", help="how long open requests get to finish; 0s: no time (default: 10s)"
    )


def detach(parser: argparse.ArgumentParser) -> None:
    """`netagent detach`."""
    endpoint(parser)
    parser.add_argument(
        "--drain",
        metavar="TIME",
        help="also wait until clients drop the cached address (5s), then give open requests this long to finish",
    )


def link(parser: argparse.ArgumentParser) -> None:
    """`netagent link` and `unlink`."""
    endpoint(parser)
    parser.add_argument(
        "link", metavar="SERVICE[:ALIAS]", help="a service (or SERVICE.NETWORK), and its alias"
    )


def publish(parser: argparse.ArgumentParser) -> None:
    """`netagent publish` and `unpublish`."""
    endpoint(parser)
    parser.add_argument(
        "port",
        metavar="[ADDR:]PORT:PORT[/PROTOCOL]",
        help="a port of the host and a port of the container, or a range of each",
    )


def attach(parser: argparse.ArgumentParser) -> None:
    """`netagent attach`."""
    parser.add_argument(
        "target",
        metavar="TARGET",
        help="netns:NAME, the path of a namespace, pid:PID, docker:NAME, podman:NAME, unit:NAME or machine:NAME",
    )
    many: dict[str, Any] = {"action": "append", "default": []}
    parser.add_argument("--network", required=True, metavar="NET", help="the network to attach it to")
    parser.add_argument("--name", metavar="NAME", help="name of the endpoint (default: the target's)")
    parser.add_argument("--service", metavar="NAME", help="service that it belongs to (default: its name)")
    parser.add_argument(
        "--alias", metavar="NAME", help="a further name of it in the network; may be repeated", **many
    )
    parser.add_argument(
        "--link", metavar="SERVICE[:ALIAS]", help="see `netagent link`; may be repeated", **many
    )
    parser.add_argument(
        "--expose",
        metavar="[NAME=]PORT[/PROTOCOL]",
        help="a port to announce in SRV records, such as http=80/tcp; may be repeated",
        **many,
    )
    parser.add_argument(
        "-p",
        "--publish",
        metavar="[ADDR:]PORT:PORT[/PROTOCOL]",
        help="forward a port of the host to one of the container: 8080:80, 8080-8089:80-89/udp; may be repeated",
        **many,
    )
    parser.add_argument("--label", metavar="KEY=VALUE", help="a label; may be repeated", **many)
    parser.add_argument("--ip", metavar="ADDR", help="a fixed address, at most one of each family", **many)
    parser.add_argument("--mac", metavar="MAC", help="a fixed MAC address")
    parser.add_argument(
        "--ifname", metavar="NAME", help="name of the interface in the container (default: eth0, eth1, …)"
    )


def network_create(parser: argparse.ArgumentParser) -> None:
    """`netagent network create`."""
    parser.add_argument("name", metavar="NAME")
    parser.add_argument(
        "--subnet",
        action="append",
        default=[],
        metavar="CIDR",
        help="at most one IPv4 and one IPv6 (default: chosen from address_pools)",
    )
    parser.add_argument("--mtu", type=int, metavar="BYTES", help="default: what fits the paths between hosts")
    parser.add_argument(
        "--internal", action="store_true", help="containers cannot reach anything outside the network"
    )
    parser.add_argument(
        "--policy",
        choices=("open", "links"),
        help="open (default): all containers may connect to each other; links: only to services they are linked to",
    )
    parser.add_argument(
        "--multicast", action="store_true", help="carry multicast and broadcast to the other hosts"
    )
    parser.add_argument("--host-access", action="store_true", help="give each host an address in the network")


def network(parser: argparse.ArgumentParser) -> None:
    """Commands on one network."""
    parser.add_argument("network", metavar="NAME", help="its name or id")


def remove(parser: argparse.ArgumentParser) -> None:
    """`netagent network rm`."""
    network(parser)
    parser.add_argument(
        "--force", action="store_true", help="also if it has endpoints: detach those of this host"
    )


def connect(parser: argparse.ArgumentParser) -> None:
    """`netagent network connect` and `disconnect`."""
    parser.add_argument("network", metavar="NET", help="its name or id")
    parser.add_argument("target", metavar="TARGET", help="as for `attach`, or an endpoint of this host")


def inspect(parser: argparse.ArgumentParser) -> None:
    """`netagent inspect`."""
    parser.add_argument("thing", metavar="NAME|ID|IP|MAC", help="an endpoint, service, network or host")
    parser.add_argument(
        "--why", action="store_true", help="show its record, the objects made from it, and which are missing"
    )
    local(parser)


def lookup(parser: argparse.ArgumentParser) -> None:
    """`netagent lookup`."""
    parser.add_argument("name", metavar="NAME", help="web, web.app or a full name")
    parser.add_argument("type", metavar="TYPE", nargs="?", default="A", help="A (default), AAAA, SRV, PTR, …")
    parser.add_argument(
        "--from", dest="from_endpoint", metavar="ENDPOINT", help="show the answer that this endpoint gets"
    )
    local(parser)


def ping(parser: argparse.ArgumentParser) -> None:
    """`netagent ping`."""
    parser.add_argument(
        "ends", metavar="[FROM] TO[:PORT]", nargs="+", help="an endpoint of this host; the destination"
    )
    parser.add_argument("--count", type=int, default=3, metavar="N", help="packets of each size (default: 3)")
    parser.add_argument(
        "--trace", action="store_true", help="show each layer on the path and what it decided"
    )


def watch(parser: argparse.ArgumentParser) -> None:
    """Commands that list something."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--watch", action="store_true", help="keep showing changes until interrupted")
    group.add_argument("-q", "--quiet", action="store_true", help="print ids only")


def filters(parser: argparse.ArgumentParser) -> None:
    """Lists of endpoints or services."""
    parser.add_argument("--network", metavar="NET", help="only those in this network")
    parser.add_argument("--host", metavar="HOST", help="only those on this host")
    parser.add_argument("--service", metavar="NAME", help="only those of this service, alias or container")
    local(parser)
    watch(parser)


def local(parser: argparse.ArgumentParser) -> None:
    """Commands that answer for the whole cluster."""
    parser.add_argument(
        "--local", action="store_true", help="use only the records of this host; do not ask other hosts"
    )


def installation(parser: argparse.ArgumentParser) -> None:
    """`netagent install` and `uninstall`."""
    # The same as netagent.install.files.PARTS, whose import would be slow; a test compares the two.
    parts = ("docker", "podman", "cni", "systemd")
    parser.add_argument("part", choices=parts, metavar="docker|podman|cni|systemd")
    parser.add_argument(
        "--root",
        default="/",
        metavar="DIR",
        help="write below this folder, to prepare the image of another system; runs no commands then",
    )
