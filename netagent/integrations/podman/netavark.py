"""The plug-in protocol of netavark, Podman's network program, as values. Pure.

    netagent info                                         -> {"version": …, "api_version": "1.0.0"}
    netagent create          a network                    -> the network as it shall be kept
    netagent setup NETNS     one container, one network   -> {"dns_server_ips": …, "interfaces": …}
    netagent teardown NETNS  the same as at setup         -> nothing

A refusal is `{"error": sentence}` with an exit status other than 0; Podman shows the sentence. Which network of ours
a Podman network stands for is in its option `netagent.network`, the only field of `podman network create` that comes
back with each setup (labels don't). Fields that are not used here are left alone: each release of Podman adds some.

The address is ours to choose, so that no two hosts hand one out: the network is kept with our subnets, against which
Podman checks `--ip`, but with the IPAM driver `none`. Podman refuses that pair when it is typed and keeps it when a
plug-in answers it (seen with 5.4).
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from netagent.control.request_parsing import publications_untrusted
from netagent.errors import InputError
from netagent.model.publication import Publication

API_VERSION = "1.0.0"
"""Of the plug-in protocol; netavark has known no other since plug-ins came with 1.3."""
DRIVER = "netagent"
"""The plug-in's file name, and with it the driver's name in `podman network create --driver`."""
NETWORK_OPTION = "netagent.network"
"""The option, and the label by which the mirror knows its own."""
MAX_ALIASES = 64
"""All of them end in one record, which has to stay small."""

_ID = re.compile(r"[0-9a-f]{12,64}")
_IFNAME = re.compile(r"[^\s/:]{1,15}")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")


@dataclass(frozen=True, slots=True)
class Creation:
    """`podman network create --driver netagent`."""

    name: str
    network: str
    """Of ours, by name or id; "" when the option is not given."""
    asked: tuple[str, ...]
    """Flags by which the user asked for what a network of ours decides itself."""
    internal: bool
    given: Mapping[str, Any]
    """All of it, to be given back."""


@dataclass(frozen=True, slots=True)
class NetavarkInterface:
    """One interface of one container: the input of `setup`, and of `teardown` the same again."""

    container_id: str
    container_name: str
    """Of the pod when it is a pod's infra container."""
    network_name: str
    """As Podman calls it."""
    network: str
    """Id of ours; "" when somebody wrote the network's file by hand."""
    ifname: str
    aliases: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    """Canonical; what `--ip` and `--ip6` ask for."""
    mac: str = ""
    options: tuple[str, ...] = ()
    """Names of what the user said beyond that; we know none."""
    publish: tuple[Publication, ...] = ()
    """`-p`; netavark tells them to each of the container's networks."""

    @property
    def origin(self) -> str:
        """Who made the endpoint, as its row says it."""
        return f"{ORIGIN}{self.container_id}/{self.ifname}"


ORIGIN = "podman:"
"""`podman:<container id>/<interface>` is the origin of an endpoint that Podman made."""
TARGET = "podman:"
"""`podman:<container name>` is its target, in Podman's spelling."""


def container_of(origin: str) -> str:
    """The container id in an origin of ours, "" when it is somebody else's."""
    return origin.removeprefix(ORIGIN).partition("/")[0] if origin.startswith(ORIGIN) else ""


def creation_untrusted(body: bytes) -> Creation:
    """The input of `create`. Raises InputError and nothing else."""
    given = _object_untrusted(body)
    options = _texts_by_name(given, "options")
    refuse_unknown(options)
    asked = [flag for key, flag in _DECIDED_BY_US.items() if given.get(key)]
    driver = _part(given, "ipam_options").get("driver")
    if driver not in (None, "", "none"):  # not a set: whatever JSON can say may be here
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
    """The input of `setup` and `teardown`. Raises InputError and nothing else."""
    given = _object_untrusted(body)
    network, options = _part(given, "network"), _part(given, "network_options")
    container_id, ifname = _text(given, "container_id"), _text(options, "interface_name")
    if not _ID.fullmatch(container_id):
        raise InputError(
            f"{container_id!r} is no id of a container", hint="this is called by netavark, not by hand"
        )
    if not _IFNAME.fullmatch(ifname):
        raise InputError(
            f"{ifname!r} is no name of an interface", hint="use at most 15 characters, no space, : or /"
        )
    mac = (_text(options, "static_mac") if options.get("static_mac") else "").lower()
    if mac and not _MAC.fullmatch(mac):
        raise InputError(
            f"{mac!r} is no MAC address", hint="write six pairs of hex digits: 02:00:00:00:00:01"
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
    """TCP and UDP; Podman has seen to it that no port is named twice."""
    mappings = given.get("port_mappings") or []
    if not isinstance(mappings, list) or not all(isinstance(one, dict) for one in mappings):
        raise InputError("the field port_mappings is not a list of objects")
    texts = []
    for one in mappings:
        host_port, port, count = (one.get(key) for key in ("host_port", "container_port", "range"))
        count = count or 1
        if not all(type(number) is int and 0 <= number < 1 << 16 for number in (host_port, port, count)):
            raise InputError("a port in port_mappings is no port's number")
        address = f"[{_text(one, 'host_ip')}]:" if one.get("host_ip") else ""
        ports = f"{host_port}-{host_port + count - 1}:{port}-{port + count - 1}"
        protocols = (_text(one, "protocol") or "tcp").split(",")
        texts += [f"{address}{ports}/{protocol}" for protocol in protocols if protocol in {"tcp", "udp"}]
    return publications_untrusted(texts)


def created(creation: Creation, network_id: str, subnets: Sequence[str], *, internal: bool) -> dict[str, Any]:
    """The network as Podman shall keep it."""
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
    """The answer to `setup`; `interfaces` are addresses with prefix length, each with its gateway or ""."""
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
        raise InputError("the input is not JSON", hint="this is called by netavark, not by hand") from None
    if not isinstance(given, dict):
        raise InputError("the input is not a JSON object", hint="this is called by netavark, not by hand")
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
    """InputError for what `podman network create --opt` and `podman run --network NAME:…` say that is not ours."""
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
        raise InputError(f"{text!r} is no address", thing=text) from None
