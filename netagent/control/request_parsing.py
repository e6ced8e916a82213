"""Parser of outside JSON to requests: the one place that checks the form of fields, names, addresses and bounds.

Every function raises InputError and nothing else. The error names the field, what is wrong with it, and what it
should be. The types and bounds that all fields share are in netagent.control.json_fields.
"""

from __future__ import annotations

import ipaddress
import itertools
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from netagent.config_values import parse_seed
from netagent.control.json_fields import JsonFields, name_of, text_of
from netagent.errors import InputError
from netagent.model.allowed import subnet_flaw
from netagent.model.ids import NODE_LABEL, is_name
from netagent.model.number import whole_number
from netagent.model.publication import MAX_PORTS, Publication
from netagent.model.records import Link, Policy, Port
from netagent.model.request import AttachRequest, ListFilter, NetworkRequest

MAX_INVITE_TTL_S = 30 * 86400.0
MAX_INVITE_USES = 1000
MAX_DRAIN_S = 300.0
"""Longer than any request for which a client waits."""
MAX_PINGS = 100
"""Bound of echoes of one size that `ping` sends; beyond it: refused. A reply may take a second, and the client
waits."""
TARGET_FORMS = "netns:NAME, /PATH, pid:PID, docker:NAME, podman:NAME, unit:NAME or machine:NAME"
_TARGET = re.compile(r"/.+|netns:[^/\s]+|pid:[1-9][0-9]{0,9}|(docker|podman|unit|machine):\S+")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_PROTOCOLS = ("tcp", "udp", "sctp")
_PUBLICATION = re.compile(
    r"(?:(?P<addr>\[[0-9a-fA-F:.]{1,45}\]|[0-9.]{1,15}):)?"
    r"(?P<h>[0-9]{1,5})(?:-(?P<he>[0-9]{1,5}))?:(?P<p>[0-9]{1,5})(?:-(?P<pe>[0-9]{1,5}))?(?:/(?P<protocol>[a-zA-Z]{1,20}))?"
)


def object_untrusted(body: bytes) -> dict[str, Any]:
    """Parse the body of a request as a JSON object; no body is an empty object."""
    if not body.strip():
        return {}
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise InputError("the request is not JSON", hint="send one JSON object") from None
    if not isinstance(value, dict):
        raise InputError("the request is not a JSON object", hint="send one JSON object")
    return value


def attach_untrusted(value: Mapping[str, Any]) -> AttachRequest:
    """Parse an attach request. `target` and `network` are required."""
    fields = JsonFields(value, "target network name service aliases links ports publish labels ip mac ifname")
    return AttachRequest(
        target=target_of(fields.text("target")),
        network=fields.text("network", required=True),
        name=fields.name("name"),
        service=fields.name("service"),
        aliases=tuple(name_of(alias, "alias") for alias in fields.texts("aliases")),
        links=tuple(link_untrusted(link) for link in fields.objects("links")),
        ports=tuple(_port(port) for port in fields.objects("ports")),
        publish=publications_untrusted(fields.texts("publish")),
        labels=_labels(fields.object("labels")),
        addresses=_addresses(fields.texts("ip")),
        mac=_mac(fields.text("mac")),
        ifname=_ifname(fields.text("ifname")),
    )


def network_untrusted(value: Mapping[str, Any]) -> NetworkRequest:
    """Parse a network request. `name` is required."""
    fields = JsonFields(value, "name subnets mtu_bytes internal policy multicast host_access")
    name = name_of(fields.text("name"), "network")
    if name == NODE_LABEL:
        raise InputError(
            f"a network cannot have the name {name!r}: <host>.{name} are the names of hosts",
            thing=name,
            hint="choose another name",
        )
    policy = fields.text("policy") or Policy.OPEN.value
    if policy not in [p.value for p in Policy]:
        raise InputError(f"policy {policy!r} is not known", thing="policy", hint="use open or links")
    return NetworkRequest(
        name=name,
        subnets=_subnets(fields.texts("subnets")),
        # 576 is the minimum of IPv4 (RFC 791); the 1280 of IPv6 is checked later, when the subnets are known.
        mtu_bytes=fields.number("mtu_bytes", 576, 65535),
        internal=fields.flag("internal"),
        policy=Policy(policy),
        multicast=fields.flag("multicast"),
        host_access=fields.flag("host_access"),
    )


def link_untrusted(value: Mapping[str, Any]) -> Link:
    """Parse a link. `service` is required; `alias` defaults to the service's first label."""
    fields = JsonFields(value, "service alias")
    service = fields.text("service", required=True).rstrip(".")
    if not all(is_name(label) for label in service.split(".")):
        raise InputError(
            f"{service!r} is not the name of a service",
            thing=service,
            hint="write SERVICE, SERVICE.NETWORK or the full name, in lower case",
        )
    return Link(service=service, alias=fields.name("alias") or service.partition(".")[0])


def publication_untrusted(value: Mapping[str, Any]) -> Publication:
    """Parse a published port. `port` is required."""
    return _publication(JsonFields(value, "port").text("port", required=True))


def publications_untrusted(texts: Iterable[str]) -> tuple[Publication, ...]:
    """Parse ports of the host and of the container, each `[ADDR:]8080[-8089]:80[-89][/tcp|udp]`; sorted."""
    found = sorted({_publication(text) for text in texts})
    for earlier, later in itertools.combinations(found, 2):
        if earlier.meets(later):
            raise InputError(
                f"{earlier.text} and {later.text} share a port of the host",
                thing=later.text,
                hint="give each port of the host once",
            )
    return tuple(found)


def _publication(text: str) -> Publication:
    form = "write [ADDR:]8080:80 or [ADDR:]8080-8089:80-89, with /tcp or /udp at the end"
    match = _PUBLICATION.fullmatch(text)
    if match is None:
        raise InputError(f"{text[:80]!r} is not a port of the host and one of the container", hint=form)
    first, last, inner, inner_last = (int(match[n]) if match[n] else 0 for n in ("h", "he", "p", "pe"))
    count, inner_count = (max(end, start) - start + 1 for start, end in ((first, last), (inner, inner_last)))
    protocol = (match["protocol"] or "tcp").lower()
    if protocol not in {"tcp", "udp"}:
        raise InputError(f"{protocol[:80]!r} ports cannot be published", thing=text, hint="use tcp or udp")
    if count != inner_count or (last and last < first) or (inner_last and inner_last < inner):
        raise InputError(f"the two ranges in {text!r} have different lengths", thing=text, hint=form)
    if not (first > 0 and first + count <= 65536 and inner > 0 and inner + count <= 65536):
        raise InputError(f"{text!r} has a number that is not a port", thing=text, hint="ports are 1 to 65535")
    if count > MAX_PORTS:
        raise InputError(f"{text!r} has {count} ports", thing=text, hint=f"give at most {MAX_PORTS} at once")
    return Publication(first, inner, protocol, count, _publication_address((match["addr"] or "").strip("[]")))


def _publication_address(text: str) -> str:
    if not text:
        return ""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise InputError(
            f"{text[:80]!r} is not an address", thing=text[:80], hint="write [ADDR]:8080:80"
        ) from None
    if address == ipaddress.IPv6Address("::1"):
        raise InputError(
            "ports cannot be published at ::1: the kernel does not forward packets to ::1",
            thing=text,
            hint="use 127.0.0.1, or no address",
        )
    return str(address)


def filter_untrusted(value: Mapping[str, Any], *, local: bool = False) -> ListFilter:
    """Parse a list's filter. All fields may be missing."""
    fields = JsonFields(value, "network host service")
    return ListFilter(
        network=fields.text("network"),
        host=fields.text("host"),
        service=fields.text("service"),
        local=local,
    )


def invite_untrusted(value: Mapping[str, Any]) -> tuple[float, int]:
    """Parse (`ttl_s`, `uses`); defaults: one hour, one use."""
    fields = JsonFields(value, "ttl_s uses")
    ttl_s = value.get("ttl_s", 3600.0)
    if isinstance(ttl_s, bool) or not isinstance(ttl_s, (int, float)) or not 1 <= ttl_s <= MAX_INVITE_TTL_S:
        shown = f"{ttl_s:.0f}" if isinstance(ttl_s, float) else str(ttl_s)[:80]
        raise InputError(
            f"a token cannot be valid for {shown} seconds",
            thing="ttl_s",
            hint="use --ttl 1s to 30d",
        )
    return float(ttl_s), fields.number("uses", 1, MAX_INVITE_USES) or 1


def count_untrusted(text: str) -> int:
    """Parse a number of packets. Raises InputError."""
    count = whole_number(text, 1, MAX_PINGS)
    if count is None:
        raise InputError(
            f"{text[:80]!r} is not a number of packets", thing="count", hint=f"use 1 to {MAX_PINGS}"
        )
    return count


def drain_untrusted(value: Mapping[str, Any]) -> float | None:
    """Parse `drain_s`: how long open requests may take to finish. None when missing."""
    JsonFields(value, "drain_s")
    drain_s = value.get("drain_s")
    if drain_s is None:
        return None
    if isinstance(drain_s, bool) or not isinstance(drain_s, (int, float)) or not 0 <= drain_s <= MAX_DRAIN_S:
        raise InputError(
            f"the drain time cannot be {str(drain_s)[:80]} seconds",
            thing="drain_s",
            hint=f"use --drain 0s to {MAX_DRAIN_S:.0f}s",
        )
    return float(drain_s)


def forget_untrusted(value: Mapping[str, Any]) -> tuple[tuple[str, ...], float, bool]:
    """Parse (`hosts`, `dead_for_s`, `force`); `hosts` or `dead_for_s` is required."""
    fields = JsonFields(value, "hosts dead_for_s force")
    hosts = fields.texts("hosts")
    dead_for_s = value.get("dead_for_s", 0.0)
    if isinstance(dead_for_s, bool) or not isinstance(dead_for_s, (int, float)) or not 0 <= dead_for_s < 1e9:
        raise InputError(
            f"the time of silence cannot be {str(dead_for_s)[:80]} seconds",
            thing="dead_for_s",
            hint="write --dead-for 1h or --dead-for 3d",
        )
    if not hosts and not dead_for_s:
        raise InputError(
            "no host to forget was given",
            thing="hosts",
            hint="name hosts, or use --dead-for 72h for all hosts that have been silent for that long",
        )
    return hosts, float(dead_for_s), fields.flag("force")


def join_untrusted(value: Mapping[str, Any]) -> tuple[tuple[str, ...], str]:
    """Parse (`addresses`, `token`); the token is required."""
    fields = JsonFields(value, "addresses token")
    addresses = fields.texts("addresses")
    for address in addresses:
        try:
            parse_seed(address)
        except ValueError as error:
            raise InputError(
                f"{address!r} is not an address to join: {error}",
                thing=address,
                hint="write HOST, HOST:PORT or [IPV6]:PORT",
            ) from None
    token = fields.text("token").strip()
    if not token:
        raise InputError(
            "a join needs a token", thing="token", hint="`netagent invite` on a member prints one"
        )
    return addresses, token


def cluster_untrusted(value: Mapping[str, Any]) -> str:
    """Parse `cluster`; `""` when missing: the agent's configuration decides."""
    return JsonFields(value, "cluster").name("cluster")


def target_of(text: str) -> str:
    """Parse a target of attach."""
    if not _TARGET.fullmatch(text) or "\0" in text:
        raise InputError(f"{text!r} does not name a container", thing=text, hint=f"write {TARGET_FORMS}")
    return text


def _port(value: Mapping[str, Any]) -> Port:
    fields = JsonFields(value, "name number protocol")
    number = fields.number("number", 1, 65535)
    if number is None:
        raise InputError("a port has no number", thing="ports", hint="write [NAME=]80/tcp")
    protocol = fields.text("protocol") or "tcp"
    if protocol not in _PROTOCOLS:
        raise InputError(
            f"{protocol!r} is not a protocol of ports", thing=protocol, hint="use tcp, udp or sctp"
        )
    # The name of a port defaults to its number, so that it has an SRV record too: _80._tcp.web.app
    return Port(name=fields.name("name") or str(number), number=number, protocol=protocol)


def _labels(value: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    for key, text in value.items():
        text_of(text, f"label {key[:80]!r}")
        if not key or not key.isprintable() or len(key) > 255:
            raise InputError(
                f"{key[:80]!r} cannot be the key of a label", thing=key[:80], hint="write KEY=VALUE"
            )
    return tuple(sorted(value.items()))


def _addresses(texts: Iterable[str]) -> tuple[str, ...]:
    found = {}
    for text in texts:
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            raise InputError(
                f"{text[:80]!r} is not an IP address",
                thing=text[:80],
                hint="write it without a prefix length",
            ) from None
        if address.version in found:
            raise InputError(
                f"{text} is a second IPv{address.version} address",
                thing=text,
                hint="give at most one IPv4 and one IPv6 address",
            )
        found[address.version] = str(address)
    return tuple(found[version] for version in sorted(found))


def _subnets(texts: Iterable[str]) -> tuple[str, ...]:
    found = {}
    for text in texts:
        try:
            subnet = ipaddress.ip_network(text, strict=False)
        except ValueError:
            raise InputError(
                f"{text[:80]!r} is not a subnet", thing=text[:80], hint="write ADDRESS/LENGTH"
            ) from None
        if str(subnet.network_address) != str(ipaddress.ip_address(text.partition("/")[0])):
            raise InputError(
                f"{text} is an address within a subnet", thing=text, hint=f"did you mean {subnet}?"
            )
        _check_subnet(subnet)
        if subnet.version in found:
            raise InputError(
                f"{text} is a second IPv{subnet.version} subnet",
                thing=text,
                hint="a network has at most one of each family",
            )
        found[subnet.version] = str(subnet)
    return tuple(found[version] for version in sorted(found))


def _check_subnet(subnet: ipaddress.IPv4Network | ipaddress.IPv6Network) -> None:
    flaw = subnet_flaw(subnet)
    if flaw is not None:
        raise InputError(f"{subnet} {flaw[0]}", thing=str(subnet), hint=flaw[1])


def _mac(text: str) -> str:
    mac = text.lower().replace("-", ":")
    if mac and (not _MAC.fullmatch(mac) or int(mac[:2], 16) & 1 or mac == "00:00:00:00:00:00"):
        raise InputError(
            f"{text[:80]!r} is not the MAC address of one interface",
            thing=text[:80],
            hint="write six pairs of hex digits such as 02:00:5e:10:00:01",
        )
    return mac


def _ifname(text: str) -> str:
    # The kernel's dev_valid_name(): up to 15 bytes, no slash, colon or space, not . or ..
    if text and (
        not re.fullmatch(r"[!-~]{1,15}", text) or "/" in text or ":" in text or text in (".", "..", "lo")
    ):
        raise InputError(
            f"{text[:80]!r} cannot be the name of an interface",
            thing=text[:80],
            hint="use up to 15 letters and digits, such as eth0",
        )
    return text
