"""The plug-in protocol of netavark, Podman's network program, as values. Pure.

    netagent info                                         -> {"version": …, "api_version": "1.0.0"}
    netagent create          a network                    -> the network as Podman stores it
    netagent setup NETNS     one container, one network   -> {"dns_server_ips": …, "interfaces": …}
    netagent teardown NETNS  the same as at setup         -> nothing

A refusal is `{"error": sentence}` with an exit status other than 0; Podman shows the sentence. The option
`netagent.network` of a Podman network names the netagent network; it is the only field of `podman network create`
that comes back with each setup (labels do not). Unused fields are ignored: each release of Podman adds some.

netagent assigns the addresses, so that no two hosts use the same one: Podman stores the network with our subnets,
against which it checks `--ip`, but with the IPAM driver `none`. Podman refuses this pair from a user and accepts it
from a plug-in (seen with 5.4).
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from netagent.control.request_parsing import publications_of
from netagent.errors import InputError
from netagent.model.publication import Publication

API_VERSION = "1.0.0"
"""Version of the plug-in protocol; the only one since netavark 1.3, which introduced plug-ins."""
DRIVER = "netagent"
"""The plug-in's file name, and so the driver's name in `podman network create --driver`."""
NETWORK_OPTION = "netagent.network"
"""The option, and the label by which the mirror recognises its networks."""
MAX_ALIASES = 64
"""They all become part of one record, which has to stay small."""

_ID = re.compile(r"[0-9a-f]{12,64}")
_IFNAME = re.compile(r"[^\s/:]{1,15}")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")


@dataclass(frozen=True, slots=True)
class Creation:
    """`podman network create --driver netagent`."""

    name: str
    network: str
    """The netagent network, by name or id; "" without the option."""
    asked: tuple[str, ...]
    """Flags of the user for properties that the netagent network determines."""
    internal: bool
    given: Mapping[str, Any]
    """The whole input, to be returned."""


@dataclass(frozen=True, slots=True)
class NetavarkInterface:
    """One interface of one container: the input of `setup`, and of `teardown` the same again."""

    container_id: str
    container_name: str
    """The name of the pod, if it is a pod's infra container."""
    network_name: str
    """Podman's name of the network."""
    network: str
    """Id of the netagent network; "" if a user wrote the network's file by hand."""
    ifname: str
    aliases: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    """Canonical; from `--ip` and `--ip6`."""
    mac: str = ""
    options: tuple[str, ...] = ()
    """Names of further options of the user; netagent supports none."""
    publish: tuple[Publication, ...] = ()
    """`-p`; netavark passes them with each of the container's networks."""

    @property
    def origin(self) -> str:
        """Return the origin in the endpoint's row."""
        return f"{ORIGIN}{self.container_id}/{self.ifname}"


ORIGIN = "podman:"
"""`podman:<container id>/<interface>` is the origin of an endpoint that Podman made."""
TARGET = "podman:"
"""`podman:<container name>` is its target, in Podman's spelling."""


def container_of(origin: str | None) -> str:
    """Return the container id in a Podman origin, "" for other origins."""
    return origin.removeprefix(ORIGIN).partition("/")[0] if origin and origin.startswith(ORIGIN) else ""


def creation_untrusted(body: bytes) -> Creation:
    """Parse the input of `create`. Raises InputError and nothing else."""
    given = _object_untrusted(body)
    options = _texts_by_name(given, "options")
    refuse_unknown(options)
    asked = [flag for key, flag in _DECIDED_BY_US.items() if given.get(key)]
    driver = _part(given, "ipam_options").get("driver")
    if driver not in (None, "", "none"):  # a tuple, not a set: the value may be any JSON, also unhashable
        asked.append(f"--ipam-driver {driver}")
    return Creation(
        name=_text(given, "name"),
        network=options.get(NETWORK_OPTION, ""),
        asked=tuple(asked),
        internal=bool(given.get("internal")),
        given=given,
    )


_DECIDED_BY_US = {
    "subnets": "--subnet",
    "routes": "--route",
    "network_interface": "--interface-name",
    "network_dns_servers": "--dns",
}


def plugging_untrusted(body: bytes) -> NetavarkInterface:
    """Parse the input of `setup` and `teardown`. Raises InputError and nothing else."""
    given = _object_untrusted(body)
    network, options = _part(given, "network"), _part(given, "network_options")
    container_id, ifname = _text(given, "container_id"), _text(options, "interface_name")
    if not _ID.fullmatch(container_id):
        raise InputError(
            f"{container_id!r} is not the id of a container", hint="netavark calls this, not a user"
        )
    if not _IFNAME.fullmatch(ifname):
        raise InputError(
            f"{ifname!r} is not the name of an interface", hint="use at most 15 characters, no space, : or /"
        )
    mac = (_text(options, "static_mac") if options.get("static_mac") else "").lower()
    if mac and not _MAC.fullmatch(mac):
        raise InputError(
            f"{mac!r} is not a MAC address", hint="write six pairs of hex digits: 02:00:00:00:00:01"
        )
    return NetavarkInterface(
        container_id=container_id,
        container_name=_text(given, "container_name"),
        network_name=_text(network, "name"),
        network=_texts_by_name(network, "options").get(NETWORK_OPTION, ""),
        ifname=ifname,
        aliases=_texts(options, "aliases")[:MAX_ALIASES],
        addresses=tuple(_address(text) for text in _texts(options, "static_ips")),
        mac=mac,
        options=tuple(_part(options, "options")),
        publish=_publications(given),
    )


def _publications(given: Mapping[str, Any]) -> tuple[Publication, ...]:
    """Return TCP and UDP ports; Podman has checked that no port is given twice."""
    mappings = given.get("port_mappings") or []
    if not isinstance(mappings, list) or not all(isinstance(one, dict) for one in mappings):
        raise InputError("the field port_mappings is not a list of objects")
    texts = []
    for one in mappings:
        host_port, port, count = (one.get(key) for key in ("host_port", "container_port", "range"))
        count = count or 1
        if not all(type(number) is int and 0 <= number < 1 << 16 for number in (host_port, port, count)):
            raise InputError("a port in port_mappings is not a port number")
        address = f"[{_text(one, 'host_ip')}]:" if one.get("host_ip") else ""
        ports = f"{host_port}-{host_port + count - 1}:{port}-{port + count - 1}"
        protocols = (_text(one, "protocol") or "tcp").split(",")
        texts += [f"{address}{ports}/{protocol}" for protocol in protocols if protocol in {"tcp", "udp"}]
    return publications_of(texts)


def created(creation: Creation, network_id: str, subnets: Sequence[str], *, internal: bool) -> dict[str, Any]:
    """Return the network as Podman is to store it."""
    gateways = [{"subnet": text, "gateway": str(ipaddress.ip_network(text)[1])} for text in subnets]
    return {
        **creation.given,
        "subnets": gateways,
        "ipv6_enabled": any(":" in text for text in subnets),
        "internal": internal,
        "ipam_options": {"driver": "none"},
        "options": {**(creation.given.get("options") or {}), NETWORK_OPTION: network_id},
    }


def plugged(
    ifname: str,
    mac: str,
    interfaces: Sequence[tuple[str, str]],
    *,
    servers: Sequence[str],
    search: Sequence[str],
) -> dict[str, Any]:
    """Return the answer to `setup`; `interfaces`: addresses with prefix length, each with its gateway or ""."""
    subnets = [{"ipnet": text, **({"gateway": gateway} if gateway else {})} for text, gateway in interfaces]
    return {
        "dns_server_ips": list(servers),
        "dns_search_domains": list(search),
        "interfaces": {ifname: {"mac_address": mac, "subnets": subnets}},
    }


def _object_untrusted(body: bytes) -> dict[str, Any]:
    try:
        given = json.loads(body)
    except (ValueError, RecursionError):
        raise InputError("the input is not JSON", hint="netavark calls this, not a user") from None
    if not isinstance(given, dict):
        raise InputError("the input is not a JSON object", hint="netavark calls this, not a user")
    return given


def _part(given: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    part = given.get(key) or {}
    if not isinstance(part, dict):
        raise InputError(f"the field {key} is not a JSON object")
    return part


def _text(given: Mapping[str, Any], key: str) -> str:
    text = given.get(key, "")
    if not isinstance(text, str) or not text.isprintable():
        raise InputError(f"the field {key} is not text")
    return text


def _texts(given: Mapping[str, Any], key: str) -> tuple[str, ...]:
    found = given.get(key) or []
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise InputError(f"the field {key} is not a list of texts")
    return tuple(found)


def _texts_by_name(given: Mapping[str, Any], key: str) -> Mapping[str, str]:
    found = _part(given, key)
    if not all(isinstance(one, str) for one in found.values()):
        raise InputError(f"the field {key} has a value that is not text")
    return found


def refuse_unknown(options: Iterable[str]) -> None:
    """Raise InputError for unknown options of `podman network create --opt` and `podman run --network NAME:…`."""
    for name in options:
        if name != NETWORK_OPTION:
            raise InputError(
                f"netagent's driver has no option {name[:80]!r}",
                thing=name,
                hint=f"{NETWORK_OPTION}=NETWORK is the only one; others belong to `netagent network create`",
            )


def _address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise InputError(f"{text!r} is not an address", thing=text) from None
