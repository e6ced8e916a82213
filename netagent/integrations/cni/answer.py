"""Answers to a CNI runtime: results in the form of its version, and errors with CNI's codes. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from netagent.endpoints import resolv_conf
from netagent.errors import InputError, NetagentError
from netagent.integrations.cni.configuration import BAD_ENVIRONMENT, BAD_FIELD
from netagent.integrations.cni.protocol import BAD_JSON, BAD_VERSION, SUPPORTED, CniAdd
from netagent.integrations.shim_call import Answer

UNKNOWN_CONTAINER, UNUSABLE, TRY_AGAIN, NOT_AVAILABLE, NOT_AS_IT_WAS = 3, 7, 11, 50, 100
CANNOT_ADD = "cannot-add"
"""CNI's error code for STATUS."""
_CODES: Mapping[str, int] = {
    BAD_VERSION: 1,
    BAD_FIELD: 2,
    BAD_ENVIRONMENT: 4,
    BAD_JSON: 6,
    # By the specification, code 3 means that a DEL would have nothing to clean up.
    "namespace-gone": UNKNOWN_CONTAINER,
    "not-a-namespace": UNKNOWN_CONTAINER,
    "not-as-it-was": NOT_AS_IT_WAS,
    CANNOT_ADD: NOT_AVAILABLE,
    # Errors that a retry cannot cure.
    "host-namespace": UNUSABLE,
    "bad-address": UNUSABLE,
    "not-supported": UNUSABLE,
    "interface-taken": UNUSABLE,
    "already-attached": UNUSABLE,
    "alias-in-use": UNUSABLE,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachedInterface:
    """The interface of an endpoint as ADD made it."""

    host_ifname: str
    ifname: str
    mac: str
    mtu_bytes: int
    addresses: Sequence[str]
    """With the prefix length on the interface."""
    routes: Sequence[str]
    """Destinations of routes, all on-link."""
    gateways: Sequence[str]
    """Gateways of the default route; empty: this interface does not carry it."""
    search: Sequence[str]


def success(value: Mapping[str, Any] | None = None) -> Answer:
    """Return a success; None: without output."""
    return Answer(b"" if value is None else json.dumps(value).encode() + b"\n")


def failure(error: NetagentError, version: object) -> Answer:
    """Return the error with its code; `version` is that of the configuration, unchecked."""
    document = {
        "cniVersion": version if version in SUPPORTED else "1.0.0",
        "code": code_of(error),
        "msg": f"netagent: {error.message}",
    }
    if error.hint:
        document["details"] = error.hint
    return Answer(json.dumps(document).encode() + b"\n", exit_status=1)


def code_of(error: NetagentError) -> int:
    """Return CNI's code. What is missing or refused now may work later, above all while this host joins a cluster."""
    return _CODES.get(error.code, UNUSABLE if isinstance(error, InputError) else TRY_AGAIN)


def versions(version: str) -> Answer:
    """Answer VERSION."""
    return success({"cniVersion": version, "supportedVersions": list(SUPPORTED)})


def result(add: CniAdd, plugged: AttachedInterface) -> Answer:
    """Answer ADD: the results of earlier plug-ins in the chain, and ours."""
    before = add.previous
    interfaces = [*(before.get("interfaces") or []), {"name": plugged.host_ifname}]
    ours: dict[str, Any] = {"name": plugged.ifname, "mac": plugged.mac, "sandbox": add.netns}
    if SUPPORTED.index(add.version) >= SUPPORTED.index("1.1.0"):
        ours["mtu"] = plugged.mtu_bytes
    ips = [_address(address, len(interfaces), plugged.gateways) for address in plugged.addresses]
    routes = [*(before.get("routes") or []), *({"dst": one} for one in plugged.routes)]
    return success(
        {
            **before,
            "cniVersion": add.version,
            "interfaces": [*interfaces, ours],
            "ips": [_ip(item, add.version) for item in [*(before.get("ips") or []), *ips]],
            "routes": [*routes, *_defaults(routes, plugged.gateways)],
            "dns": _dns(before.get("dns") or {}, plugged),
        }
    )


def _address(cidr: str, interface: int, gateways: Sequence[str]) -> dict[str, Any]:
    gateway = next((one for one in gateways if (":" in one) == (":" in cidr)), "")
    return {"address": cidr, "interface": interface, **({"gateway": gateway} if gateway else {})}


def _defaults(before: Sequence[Mapping[str, Any]], gateways: Sequence[str]) -> list[dict[str, str]]:
    """Return default routes of the families for which no earlier plug-in set one: theirs take precedence."""
    given = {route.get("dst") for route in before}
    found = [{"dst": "::/0" if ":" in gateway else "0.0.0.0/0", "gw": gateway} for gateway in gateways]
    return [route for route in found if route["dst"] not in given]


def _ip(item: Mapping[str, Any], version: str) -> dict[str, Any]:
    """Add the address's IP version, which CNI required until 0.4.0 and dropped in 1.0.0."""
    address = {key: value for key, value in item.items() if key != "version"}
    if SUPPORTED.index(version) < SUPPORTED.index("1.0.0"):
        address["version"] = "6" if ":" in str(item.get("address")) else "4"
    return address


def _dns(before: Mapping[str, Any], plugged: AttachedInterface) -> dict[str, Any]:
    """Name only our resolver: it forwards other names to the host's name servers, and musl queries all at once."""

    def joined(field: str, ours: Sequence[str]) -> list[str]:
        theirs = before.get(field)
        kept = [one for one in theirs if isinstance(one, str)] if isinstance(theirs, list) else []
        return list(dict.fromkeys([*ours, *kept]))

    return {
        **before,
        "nameservers": [resolv_conf.RESOLVER_ADDRESS],
        "search": joined("search", plugged.search),
        "options": joined("options", resolv_conf.OPTIONS),
    }
