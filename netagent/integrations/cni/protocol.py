"""The calls of a CNI runtime as values. Pure.

A call consists of the variables CNI_* and a configuration in JSON on standard input; see the specification,
https://www.cni.dev/docs/spec/. This module checks everything, for each verb only what it needs: DEL and GC must work
with a configuration that ADD would refuse.

    {"cniVersion": "1.0.0", "name": "app-net", "type": "netagent", "network": "app"}
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from netagent.errors import InputError
from netagent.integrations.cni.configuration import BAD_ENVIRONMENT, request_untrusted
from netagent.model.request import AttachRequest

SUPPORTED = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
_SINCE = {"CHECK": "0.4.0", "GC": "1.1.0", "STATUS": "1.1.0"}
VALID_ATTACHMENTS = "cni.dev/valid-attachments"

BAD_VERSION, BAD_JSON = "cni-version", "cni-json"
"""Codes of InputError that have their own code in CNI (netagent.integrations.cni.answer)."""

_IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,254}")
"""Identifier of a network or a container; the patterns are the specification's, the bound of 255 is ours."""
_IFNAME = re.compile(r"[^\s/:]{1,15}")


@dataclass(frozen=True, slots=True)
class Attachment:
    """One interface of one container: by the specification, the primary key of a plug-in's state."""

    network: str
    """The name of its CNI configuration, which is not the name of a netagent network."""
    container_id: str
    ifname: str

    @property
    def origin(self) -> str:
        """Return the origin of the endpoint."""
        return f"{origins_of(self.network)}{self.container_id}/{self.ifname}"


def origins_of(network: str) -> str:
    """Return the common prefix of the origins of a CNI configuration. Identifiers never contain a slash."""
    return f"cni:{network}/"


@dataclass(frozen=True, slots=True)
class CniAdd:
    """ADD: attach the container."""

    version: str
    attachment: Attachment
    netns: str
    request: AttachRequest
    previous: Mapping[str, Any]
    """The result of the earlier plug-ins in the chain; {} if ours is the first."""


@dataclass(frozen=True, slots=True)
class CniDelete:
    """DEL: remove what exists of it."""

    attachment: Attachment


@dataclass(frozen=True, slots=True)
class CniCheck:
    """CHECK: verify that it is still as ADD left it."""

    attachment: Attachment
    netns: str
    addresses: frozenset[str]
    """Addresses in the result of ADD, without prefix length."""


@dataclass(frozen=True, slots=True)
class CniCollect:
    """GC: remove all attachments of one CNI network except these origins."""

    network: str
    valid: frozenset[str]


@dataclass(frozen=True, slots=True)
class CniStatus:
    """STATUS: report whether an ADD would work."""

    network: str
    """The name or id of the netagent network."""


@dataclass(frozen=True, slots=True)
class CniVersion:
    """VERSION: report the supported versions."""

    version: str


Order: TypeAlias = CniAdd | CniDelete | CniCheck | CniCollect | CniStatus | CniVersion


def configuration_untrusted(stdin: bytes) -> dict[str, Any]:
    """Parse the configuration as an object; {} when there is none. Raises InputError."""
    if not stdin.strip():
        return {}
    try:
        value = json.loads(stdin)
    except (ValueError, RecursionError):
        raise InputError("the configuration is not JSON", code=BAD_JSON, hint="see its file") from None
    if not isinstance(value, dict):
        raise InputError("the configuration is not a JSON object", code=BAD_JSON, hint="see its file")
    return value


def order_untrusted(variables: Mapping[str, str], configuration: Mapping[str, Any]) -> Order:
    """Parse a call. Raises InputError, whose code says whether a variable, version, field or value is wrong."""
    verb = variables.get("CNI_COMMAND", "")
    if verb == "VERSION":
        return CniVersion(_version(configuration) if configuration.get("cniVersion") else SUPPORTED[-1])
    if verb not in {"ADD", "DEL", "CHECK", "GC", "STATUS"}:
        raise InputError(
            f"CNI_COMMAND={verb[:40]!r} is not a command",
            code=BAD_ENVIRONMENT,
            hint="known are ADD, DEL, CHECK, GC, STATUS and VERSION",
        )
    version = _version(configuration)
    if SUPPORTED.index(version) < SUPPORTED.index(_SINCE.get(verb, SUPPORTED[0])):
        raise InputError(
            f"{verb} is not part of CNI {version}",
            code=BAD_VERSION,
            hint=f'write "cniVersion": "{_SINCE[verb]}" into the configuration',
        )
    network = _identifier(configuration.get("name"), "the configuration's name", "")
    if verb == "GC":
        return CniCollect(network, _valid_attachments(network, configuration.get(VALID_ATTACHMENTS)))
    if verb == "STATUS":
        ours = configuration.get("network")
        return CniStatus(ours if ours and isinstance(ours, str) else network)
    attachment = _attachment(network, variables)
    if verb == "DEL":
        return CniDelete(attachment)
    netns = variables.get("CNI_NETNS", "")
    if not netns.startswith("/"):
        raise InputError(
            f"CNI_NETNS={netns[:80]!r} is not the path of a network namespace",
            code=BAD_ENVIRONMENT,
            hint="give it as /run/netns/NAME or /proc/PID/ns/net",
        )
    previous = _previous(configuration.get("prevResult"))
    if verb == "CHECK":
        return CniCheck(attachment, netns, _previous_addresses(previous))
    request = request_untrusted(
        configuration,
        variables.get("CNI_ARGS", ""),
        container_id=attachment.container_id,
        netns=netns,
        ifname=attachment.ifname,
    )
    return CniAdd(version, attachment, netns, request, previous)


# -- parts -----------------------------------------------------------------------------------------------------------


def _version(configuration: Mapping[str, Any]) -> str:
    version = configuration.get("cniVersion")
    if version not in SUPPORTED:
        raise InputError(
            f"CNI version {str(version)[:40]!r} is not supported" if version else "cniVersion is missing",
            code=BAD_VERSION,
            hint=f"write one of {', '.join(SUPPORTED)} into the configuration",
        )
    return str(version)


def _identifier(value: object, what: str, code: str) -> str:
    if not isinstance(value, str) or not _IDENTIFIER.fullmatch(value):
        raise InputError(
            f"{what} is {str(value)[:80]!r}" if value else f"{what} is missing",
            code=code or None,
            hint="use letters, digits, '_', '.' and '-'",
        )
    return value


def _attachment(network: str, variables: Mapping[str, str]) -> Attachment:
    container_id = _identifier(variables.get("CNI_CONTAINERID"), "CNI_CONTAINERID", BAD_ENVIRONMENT)
    ifname = variables.get("CNI_IFNAME", "")
    if not _IFNAME.fullmatch(ifname) or ifname in {".", ".."}:
        text = f"CNI_IFNAME is {ifname[:40]!r}" if ifname else "CNI_IFNAME is missing"
        raise InputError(text, code=BAD_ENVIRONMENT, hint="use the name of an interface, such as eth0")
    return Attachment(network, container_id, ifname)


def _valid_attachments(network: str, value: object) -> frozenset[str]:
    # Without the list GC would remove everything: refuse rather than guess.
    if not isinstance(value, list):
        raise InputError(f"{VALID_ATTACHMENTS} is not a list", hint="GC needs the attachments to keep")
    found = set()
    for item in value:
        one = item if isinstance(item, dict) else {}
        if not isinstance(one.get("containerID"), str) or not isinstance(one.get("ifname"), str):
            text = f"{VALID_ATTACHMENTS} has an item without containerID and ifname"
            raise InputError(text, hint="GC needs the attachments to keep")
        found.add(Attachment(network, one["containerID"], one["ifname"]).origin)
    return frozenset(found)


def _previous(value: object) -> Mapping[str, Any]:
    """Parse `prevResult` and check the types of its parts."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InputError("prevResult is not an object", hint="pass the result of the previous plug-in")
    for field in ("interfaces", "ips", "routes"):
        items = value.get(field) or []
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            text = f"{field} of prevResult is not a list of objects"
            raise InputError(text, hint="pass the result of the previous plug-in")
    if not isinstance(value.get("dns") or {}, dict):
        raise InputError("dns of prevResult is not an object", hint="pass the result of the previous plug-in")
    return value


def _previous_addresses(previous: Mapping[str, Any]) -> frozenset[str]:
    if not previous:
        raise InputError("CHECK needs prevResult", hint="pass the result of ADD")
    found = (str(item.get("address", "")).partition("/")[0] for item in previous.get("ips") or [])
    return frozenset(_canonical(address) for address in found)


def _canonical(address: str) -> str:
    try:
        return str(ipaddress.ip_address(address))
    except ValueError:
        return address
