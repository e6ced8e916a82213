"""Requests of commands to those of use-cases: the one place that checks the form of names, addresses and ports.

Every function raises InputError and nothing else. The error names the field, what is wrong with it, and what it
should be. Types and bounds of the fields have been checked (netagent.control.conversion).
"""

from __future__ import annotations

import ipaddress
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from netagent.checks.spec import parse_checks_untrusted
from netagent.config_values import parse_seed
from netagent.control.conversion import fields_untrusted, name_of
from netagent.errors import InputError
from netagent.feeds.host_rule import is_domain
from netagent.interface import containers as asked
from netagent.model.allowed import subnet_flaw
from netagent.model.egress import Egress, parse_egress, text_of
from netagent.model.ids import NODE_LABEL, is_name
from netagent.model.locality import DEFAULT_WEIGHT, AnswerOrder
from netagent.model.origin_labels import ADDRESS, TXT_LABELS, address_flaw
from netagent.model.port import MAX_ALPN_TOTAL_CHARS, alpn_flaw, has_too_many_alpn
from netagent.model.publication import MAX_PORTS, Publication
from netagent.model.records import Group, Link, NetworkOption, Policy, Port
from netagent.model.request import AttachRequest, NetworkRequest
from netagent.model.txt import text_flaw

TARGET_FORMS = "netns:NAME, /PATH, pid:PID, docker:NAME, podman:NAME, unit:NAME or machine:NAME"
_TARGET = re.compile(r"/.+|netns:[^/\s]+|pid:[1-9][0-9]{0,9}|(docker|podman|unit|machine):\S+")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_PROTOCOLS = ("tcp", "udp", "sctp")
_PUBLICATION = re.compile(
    r"(?:(?P<addr>\[[0-9a-fA-F:.]{1,45}\]|[0-9.]{1,15}):)?"
    r"(?P<h>[0-9]{1,5})(?:-(?P<he>[0-9]{1,5}))?:(?P<p>[0-9]{1,5})(?:-(?P<pe>[0-9]{1,5}))?(?:/(?P<protocol>[a-zA-Z]{1,20}))?"
)


def attach_untrusted(value: Mapping[str, Any]) -> AttachRequest:
    """Parse the fields of an attach."""
    return attach_request(fields_untrusted(asked.AttachCommand, value))


def attach_request(given: asked.AttachCommand) -> AttachRequest:
    """Check an attach."""
    service, group = optional_name(given.service, "service"), optional_name(given.group, "group")
    return AttachRequest(
        target=target_of(given.target),
        network=given.network,
        name=optional_name(given.name, "name"),
        service=service,
        group=Group(group, service or None) if group else None,
        aliases=tuple(name_of(alias, "alias") for alias in given.aliases),
        links=tuple(link_of(link) for link in given.links),
        weight=DEFAULT_WEIGHT if given.weight is None else given.weight,
        ports=_ports_of_attach(given.ports),
        publish=publications_of(given.publish),
        labels=_labels(given.labels),
        checks=parse_checks_untrusted(given.checks),
        keeps_names=given.all_failing == "keep",
        addresses=_addresses(given.ip),
        mac=_mac(given.mac),
        ifname=_ifname(given.ifname),
    )


def network_request(given: asked.NetworkCreateCommand) -> NetworkRequest:
    """Check the options of a new network."""
    name = name_of(given.name, "network")
    if name == NODE_LABEL:
        raise InputError(
            f"a network cannot have the name {name!r}: <host>.{name} are the names of hosts",
            thing=name,
            hint="choose another name",
        )
    return NetworkRequest(
        name=name,
        subnets=_subnets(given.subnets),
        mtu_bytes=given.mtu_bytes,
        internal=given.internal,
        policy=Policy(given.policy),
        multicast=given.multicast,
        host_access=given.host_access,
        answer=AnswerOrder(given.answer_order),
        feed_rules=_feed_rules(given.feed_rules),
        feed_labels=not given.no_feed_labels,
        refuses_shared_names=given.shared_names == "refuse",
        service_addresses=given.service_addresses == "on",
        egress=_egress(given.egress),
    )


def network_changes(given: asked.NetworkSetCommand) -> dict[NetworkOption, str]:
    """Return the options to set."""
    found: dict[NetworkOption, str | None] = {
        NetworkOption.POLICY: given.policy,
        NetworkOption.INTERNAL: given.internal,
        NetworkOption.MULTICAST: given.multicast,
        NetworkOption.HOST_ACCESS: given.host_access,
        NetworkOption.ANSWER_ORDER: given.answer_order,
        NetworkOption.SHARED_NAMES: given.shared_names,
        NetworkOption.SERVICE_ADDRESSES: given.service_addresses,
        NetworkOption.EGRESS: None if given.egress is None else text_of(_egress(given.egress)),
    }
    wanted = {option: value for option, value in found.items() if value is not None}
    if not wanted:
        raise InputError(
            f"nothing to set of network {given.network}",
            thing=given.network,
            hint="give an option: see `netagent network set --help`",
        )
    return wanted


def _egress(given: str) -> Egress:
    try:
        return parse_egress(given)
    except ValueError as error:
        raise InputError(
            f"--egress {error}",
            thing="egress",
            hint="write open, none, or targets such as 192.0.2.0/24:443/tcp,198.51.100.7,[2001:db8::/32]:443",
        ) from None


def _feed_rules(given: Sequence[str]) -> tuple[str, ...] | None:
    for rule in given:
        if not is_domain(rule):
            raise InputError(
                f"{rule[:80]!r} is no domain for --feed-rule",
                thing=rule[:80],
                hint="write shop.example.com, or *.example.com for all below it, in lower case",
            )
    return tuple(sorted(set(given))) or None


def link_of(given: asked.LinkCommand | asked.UnlinkCommand | asked.LinkOfAttach) -> Link:
    """Check a link; `alias` defaults to the service's first label."""
    service = given.service.rstrip(".")
    if not all(is_name(label) for label in service.split(".")):
        raise InputError(
            f"{service!r} is not the name of a service",
            thing=service,
            hint="write SERVICE, SERVICE.NETWORK or the full name, in lower case",
        )
    return Link(service=service, alias=optional_name(given.alias, "alias") or service.partition(".")[0])


def publications_of(texts: Iterable[str]) -> tuple[Publication, ...]:
    """Parse ports of the host and of the container, each `[ADDR:]8080[-8089]:80[-89][/tcp|udp]`; sorted."""
    found = sorted({publication_of(text) for text in texts})
    for earlier, later in itertools.combinations(found, 2):
        if earlier.meets(later):
            raise InputError(
                f"{earlier.text} and {later.text} share a port of the host",
                thing=later.text,
                hint="give each port of the host once",
            )
    return tuple(found)


def publication_of(text: str) -> Publication:
    """Parse one of them."""
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


def seeds_of(addresses: Sequence[str]) -> Sequence[str]:
    """Check addresses of members."""
    for address in addresses:
        try:
            parse_seed(address)
        except ValueError as error:
            raise InputError(
                f"{address!r} is not an address to join: {error}",
                thing=address,
                hint="write HOST, HOST:PORT or [IPV6]:PORT",
            ) from None
    return addresses


def optional_name(text: str, what: str) -> str:
    """Check a name, unless it is empty."""
    return name_of(text, what) if text else ""


def target_of(text: str) -> str:
    """Parse a target of attach."""
    if not _TARGET.fullmatch(text) or "\0" in text:
        raise InputError(f"{text!r} does not name a container", thing=text, hint=f"write {TARGET_FORMS}")
    return text


def port_of_attach(given: asked.PortOfAttach) -> Port:
    """Check a port to announce."""
    protocol = given.protocol or "tcp"
    if protocol not in _PROTOCOLS:
        raise InputError(
            f"{protocol!r} is not a protocol of ports", thing=protocol, hint="use tcp, udp or sctp"
        )
    # The name of a port defaults to its number, so that it has an SRV record too: _80._tcp.web.app
    name = optional_name(given.name, "name") or str(given.number)
    alpn = tuple(given.alpn)
    if flaw := alpn_flaw(alpn):
        raise InputError(flaw, thing=name, hint="write a port such as https=443/tcp+h2+http/1.1")
    return Port(name=name, number=given.number, protocol=protocol, alpn=alpn)


def _ports_of_attach(given: Iterable[asked.PortOfAttach]) -> tuple[Port, ...]:
    ports = tuple(port_of_attach(port) for port in given)
    if has_too_many_alpn(port.alpn for port in ports):
        raise InputError(
            f"the ALPN protocols of all ports have more than {MAX_ALPN_TOTAL_CHARS:,} characters",
            thing="ports",
            hint="give fewer protocols after +",
        )
    return ports


def _labels(value: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    for key in value:
        if not key or not key.isprintable() or len(key) > 255:
            raise InputError(
                f"{key[:80]!r} cannot be the key of a label", thing=key[:80], hint="write KEY=VALUE"
            )
        if flaw := text_flaw(key, value[key]):
            raise InputError(f"the label {key}: {flaw}", thing=key, hint=f"write {TXT_LABELS}KEY=VALUE")
        if key == ADDRESS and (flaw := address_flaw(value[key])):
            raise InputError(f"the label {key} {flaw}", thing=key, hint="write true or false")
    return tuple(sorted(dict(value).items()))


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
