"""What a CNI runtime is told: results in the form of its version, and errors with CNI's numbers. Pure."""

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
"""Code of an error to STATUS."""
_CODES: Mapping[str, int] = {
    BAD_VERSION: 1,
    BAD_FIELD: 2,
    BAD_ENVIRONMENT: 4,
    BAD_JSON: 6,
    # There is nothing that a DEL would have to clean, says the specification of 3.
    "namespace-gone": UNKNOWN_CONTAINER,
    "not-a-namespace": UNKNOWN_CONTAINER,
    "not-as-it-was": NOT_AS_IT_WAS,
    CANNOT_ADD: NOT_AVAILABLE,
    # What trying again cannot cure.
    "host-namespace": UNUSABLE,
    "bad-address": UNUSABLE,
    "not-supported": UNUSABLE,
    "interface-taken": UNUSABLE,
    "already-attached": UNUSABLE,
    "alias-in-use": UNUSABLE,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachedInterface:
    """An endpoint's interface as ADD made it."""

    host_ifname: str
    ifname: str
    mac: str
    mtu_bytes: int
    addresses: Sequence[str]
    """With the prefix length that they have on the interface."""
    routes: Sequence[str]
    """Destinations, all on the link."""
    gateways: Sequence[str]
    """Through which the container reaches everything else; empty: not by this interface."""
    search: Sequence[str]


def success(value: Mapping[str, Any] | None = None) -> Answer:
    """Done; None: there is nothing to say."""
    return Answer(b"" if value is None else json.dumps(value).encode() + b"\n")


def failure(error: NetagentError, version: object) -> Answer:
    """The error with its number; `version` is what the configuration says, whatever that is."""
    document = {
        "cniVersion": version if version in SUPPORTED else "1.0.0",
        "code": code_of(error),
        "msg": f"netagent: {error.message}",
    }
    if error.hint:
        document["details"] = error.hint
    return Answer(json.dumps(document).encode() + b"\n", exit_status=1)


def code_of(error: NetagentError) -> int:
    """CNI's number. What is missing or refused now may be there later, above all while this host enters a cluster."""
    return _CODES.get(error.code, UNUSABLE if isinstance(error, InputError) else TRY_AGAIN)


def versions(version: str) -> Answer:
    """To VERSION."""
    return success({"cniVersion": version, "supportedVersions": list(SUPPORTED)})


def result(add: CniAdd, plugged: AttachedInterface) -> Answer:
    """To ADD: what the plug-ins before us made, and what we did."""
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
    """Default routes, of the families that no plug-in before us has given one: theirs comes before ours."""
    given = {route.get("dst") for route in before}
    found = [{"dst": "::/0" if ":" in gateway else "0.0.0.0/0", "gw": gateway} for gateway in gateways]
    return [route for route in found if route["dst"] not in given]


def _ip(item: Mapping[str, Any], version: str) -> dict[str, Any]:
    """Until 0.4.0 an address says its version, which 1.0.0 dropped."""
    address = {key: value for key, value in item.items() if key != "version"}
    if SUPPORTED.index(version) < SUPPORTED.index("1.0.0"):
        address["version"] = "6" if ":" in str(item.get("address")) else "4"
    return address


def _dns(before: Mapping[str, Any], plugged: AttachedInterface) -> dict[str, Any]:
    """Ours is the only name server: it asks the host's for what is not ours, and musl asks all at once."""

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
