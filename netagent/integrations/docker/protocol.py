"""Docker's plug-in protocol as values: dockerd's requests (untrusted JSON) and the answers. Pure.

A call is `POST /<Driver>.<Method>` with a JSON object. Unknown fields are ignored, because every release of Docker
adds some; the fields that we need are checked, and anything wrong raises an InputError with a sentence.

The two drivers return errors under different keys (seen with 26.1): `Err` for the network driver, `Error` for IPAM.
Both come with status 200, and dockerd shows their text to the user as `remote: <text>`.

IPAM pools have the ids `<network id>/4` and `<network id>/6`, so that the id alone identifies a pool after a restart
of either side.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from netagent.errors import InputError
from netagent.model.ids import NetworkId

CONTENT_TYPE = "application/vnd.docker.plugins.v1.2+json"
ADDRESS_SPACE = "netagent"
"""The address space of our IPAM driver; a network whose pools come from another driver names another one."""
NETWORK_OPTION = "netagent.network"
GATEWAY = "com.docker.network.gateway"
_INTERNAL = "com.docker.network.internal"
_GENERIC = "com.docker.network.generic"
_ID = re.compile(r"[0-9a-f]{64}")
_POOL = re.compile(r"([0-9a-f]{32})/([46])")
_MAX_TEXT = 4096


@dataclass(frozen=True, slots=True)
class PoolId:
    """The addresses of one family in a network."""

    network_id: NetworkId
    version: int
    """4 or 6."""

    def __str__(self) -> str:
        return f"{self.network_id}/{self.version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolRequest:
    """RequestPool. `""`: the user gave no value."""

    network: str
    version: int
    subnet: str
    ip_range: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressRequest:
    """RequestAddress and ReleaseAddress."""

    pool: PoolId
    address: str
    """Canonical, without prefix length; `""`: any."""
    gateway: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkCreation:
    """CreateNetwork."""

    address_spaces: frozenset[str]
    subnets: tuple[str, ...]
    internal: bool
    options: tuple[str, ...]
    """The names of the `-o` options."""
    network: str
    """The value of `-o netagent.network=`, which is not needed but shows what the user meant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointCreation:
    """CreateEndpoint. `addresses` without prefix length, IPv4 first; `mac` is `""` if the agent chooses it."""

    endpoint: str
    addresses: tuple[str, ...]
    mac: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinRequest:
    """Join: the sandbox may not exist yet, but will appear at `sandbox_key`."""

    docker_network: str
    endpoint: str
    sandbox_key: str


def origin_of(endpoint: str) -> str:
    """Return the origin of a Docker endpoint in our rows."""
    return f"docker:{endpoint}"


# -- requests ----------------------------------------------------------------------------------------------------


def pool_untrusted(value: Mapping[str, Any]) -> PoolRequest:
    """RequestPool."""
    options = _object(value, "Options")
    return PoolRequest(
        network=_text(options, NETWORK_OPTION),
        version=6 if value.get("V6") is True else 4,
        subnet=_text(value, "Pool"),
        ip_range=_text(value, "SubPool"),
    )


def address_untrusted(value: Mapping[str, Any]) -> AddressRequest:
    """RequestAddress and ReleaseAddress."""
    pool = _POOL.fullmatch(_text(value, "PoolID"))
    if pool is None:
        raise _wrong("PoolID", "is not a pool of netagent")
    text = _text(value, "Address")
    return AddressRequest(
        pool=PoolId(NetworkId(pool[1]), int(pool[2])),
        address=_address(text, "Address", int(pool[2])) if text else "",
        gateway=_object(value, "Options").get("RequestAddressType") == GATEWAY,
    )


def network_untrusted(value: Mapping[str, Any]) -> NetworkCreation:
    """CreateNetwork."""
    options = _object(value, "Options")
    generic = _object(options, _GENERIC)
    pools = [*_objects(value, "IPv4Data"), *_objects(value, "IPv6Data")]
    return NetworkCreation(
        address_spaces=frozenset(_text(pool, "AddressSpace") for pool in pools),
        subnets=tuple(_text(pool, "Pool") for pool in pools),
        internal=options.get(_INTERNAL) is True,
        options=tuple(sorted(generic)),
        network=_text(generic, NETWORK_OPTION),
    )


def endpoint_untrusted(value: Mapping[str, Any]) -> EndpointCreation:
    """CreateEndpoint."""
    interface = _object(value, "Interface")
    given = ((_text(interface, "Address"), 4), (_text(interface, "AddressIPv6"), 6))
    return EndpointCreation(
        endpoint=endpoint_id_untrusted(value),
        addresses=tuple(_address(text, "Address", version) for text, version in given if text),
        mac=_text(interface, "MacAddress").lower(),
    )


def join_untrusted(value: Mapping[str, Any]) -> JoinRequest:
    """Join."""
    key = _text(value, "SandboxKey")
    if not key.startswith("/"):
        raise _wrong("SandboxKey", "is not a path")
    return JoinRequest(
        docker_network=_identifier(value, "NetworkID"),
        endpoint=endpoint_id_untrusted(value),
        sandbox_key=key,
    )


def endpoint_id_untrusted(value: Mapping[str, Any]) -> str:
    """Parse the endpoint id of Leave, DeleteEndpoint and others."""
    return _identifier(value, "EndpointID")


# -- answers -----------------------------------------------------------------------------------------------------


def failure(method: str, sentence: str) -> dict[str, str]:
    """Return an error under the key of the method's driver."""
    return {"Error" if method.startswith("IpamDriver.") else "Err": sentence}


def pool_answer(pool: PoolId, subnet: str, gateway: str) -> dict[str, Any]:
    """Return the pool with its gateway; otherwise dockerd would request an address for a gateway."""
    return {"PoolID": str(pool), "Pool": subnet, "Data": {GATEWAY: f"{gateway}/{subnet.partition('/')[2]}"}}


def address_answer(address: str, subnet: str) -> dict[str, Any]:
    """Return IPv4 as a /32, so that clients spread over replicas (docs/design/0008); its route is set later."""
    version4 = ipaddress.ip_address(address).version == 4
    return {"Address": f"{address}/{32 if version4 else subnet.partition('/')[2]}", "Data": {}}


def join_answer(ifname: str, *, has_exit: bool) -> dict[str, Any]:
    """Return no gateway: Docker attaches its own bridge for egress and published ports, if `has_exit`.

    Return no routes either: the agent sets the subnet's route with its other settings once Docker has brought the
    interface up. If both set it, the second one fails, and if that is Docker, the container does not start.
    """
    return {
        "InterfaceName": {"SrcName": ifname, "DstPrefix": "eth"},
        "DisableGatewayService": not has_exit,
    }


# -- fields ------------------------------------------------------------------------------------------------------


def _text(value: Mapping[str, Any], field: str) -> str:
    text = value.get(field)
    if text is None:
        return ""
    if not isinstance(text, str) or len(text) > _MAX_TEXT or not text.isprintable():
        raise _wrong(field, "is not a printable text")
    return text


def _object(value: Mapping[str, Any], field: str) -> Mapping[str, Any]:
    found = value.get(field)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise _wrong(field, "is not an object")
    return found


def _objects(value: Mapping[str, Any], field: str) -> list[Mapping[str, Any]]:
    found = value.get(field)
    if found is None:
        return []
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise _wrong(field, "is not a list of objects")
    return found


def _identifier(value: Mapping[str, Any], field: str) -> str:
    text = _text(value, field)
    if not _ID.fullmatch(text):
        raise _wrong(field, "is not an id of 64 hex digits")
    return text


def _address(text: str, field: str, version: int) -> str:
    try:
        address = ipaddress.ip_interface(text).ip
    except ValueError:
        raise _wrong(field, f"{text[:80]!r} is not an address") from None
    if address.version != version:
        raise _wrong(field, f"{text[:80]!r} is not an IPv{version} address")
    return str(address)


def _wrong(field: str, flaw: str) -> InputError:
    return InputError(
        f"{field} in Docker's request {flaw}"
        if not flaw.startswith("'")
        else f"{field} in Docker's request: {flaw}",
        thing=field,
        hint="netagent supports the protocol of Docker 1.9 to 28; report this with `docker version`",
    )
