"""The attach request for a container, from the configuration and the places where runtimes add data per container.

In the order of precedence:

    runtimeConfig   ips, mac, aliases, portMappings: by the capabilities that the configuration declares
    args.cni        the same, and name, service, group, links, expose, check, all_failing, weight, labels; Multus
                    fills it from a pod's annotation
    CNI_ARGS        IP, MAC, NETAGENT_NAME, NETAGENT_SERVICE, NETAGENT_GROUP, and kubelet's data about the pod

Lists of the same field from several places are joined. Pure.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import re
from collections.abc import Mapping
from typing import Any

from netagent.control.request_parsing import attach_untrusted
from netagent.errors import InputError
from netagent.model.ids import MAX_NAME, nearest_name
from netagent.model.port import split_alpn
from netagent.model.request import AttachRequest

BAD_FIELD, BAD_ENVIRONMENT = "cni-field", "cni-environment"
"""Codes of InputError that have their own code in CNI (netagent.integrations.cni.answer)."""

_STANDARD = {
    "cniVersion", "cniVersions", "name", "type", "args", "capabilities", "runtimeConfig", "prevResult",
    "disableCheck", "disableGC",
}  # fmt: skip
_OURS = (
    "network", "service", "group", "aliases", "links", "expose", "check", "all_failing", "weight", "ifname",
)  # fmt: skip
_ARGUMENTS = (
    "IgnoreUnknown", "IP", "MAC", "NETAGENT_NAME", "NETAGENT_SERVICE", "NETAGENT_GROUP", "K8S_POD_NAME",
    "K8S_POD_NAMESPACE", "K8S_POD_UID", "K8S_POD_INFRA_CONTAINER_ID",
)  # fmt: skip
_LONG_ID = re.compile(r"[0-9a-f]{32,}")
SHORT_ID = 12
"""Digits of a container's random id, as many as Docker shows."""


def arguments_untrusted(text: str) -> dict[str, str]:
    """Parse CNI_ARGS, `KEY=VALUE;KEY=VALUE`. Like all plug-ins, refuse unknown keys unless IgnoreUnknown is set."""
    found: dict[str, str] = {}
    for part in filter(None, text.split(";")):
        key, sign, value = part.partition("=")
        if not sign or not key:
            raise InputError(
                f"CNI_ARGS has {part[:80]!r}", code=BAD_ENVIRONMENT, hint="write KEY=VALUE;KEY=VALUE"
            )
        found[key] = value
    if found.get("IgnoreUnknown", "").lower() not in {"1", "t", "true"}:
        for key in found.keys() - set(_ARGUMENTS):
            near = difflib.get_close_matches(key, _ARGUMENTS, n=1)
            hint = f"did you mean {near[0]}?" if near else "add IgnoreUnknown=1 if it is for another plug-in"
            raise InputError(f"CNI_ARGS has the unknown key {key[:80]!r}", code=BAD_ENVIRONMENT, hint=hint)
    return found


def endpoint_name(container_id: str, arguments: Mapping[str, str]) -> str:
    """Return the default name of an endpoint: that of its pod, else from its container's id."""
    pod, namespace = arguments.get("K8S_POD_NAME", ""), arguments.get("K8S_POD_NAMESPACE", "")
    if pod:
        # The name of a pod is unique only in its Kubernetes namespace.
        return shortened(pod if namespace in {"", "default"} else f"{pod}-{namespace}")
    return shortened(container_id[:SHORT_ID] if _LONG_ID.fullmatch(container_id) else container_id)


def shortened(text: str) -> str:
    """Return a valid name for any text. The end of a long one is replaced by a digest, because names of pods differ
    in their random ends."""
    name = nearest_name(text)
    if len(text) <= MAX_NAME and name:
        return name
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{nearest_name(text[: MAX_NAME - 9]) or 'endpoint'}-{digest}"


def request_untrusted(
    configuration: Mapping[str, Any], cni_args: str, *, container_id: str, netns: str, ifname: str
) -> AttachRequest:
    """Parse the request of ADD. Raises InputError."""
    _refuse_unknown(configuration)
    arguments = arguments_untrusted(cni_args)
    runtime = _object(configuration, "runtimeConfig")
    given = _object(_object(configuration, "args"), "cni")
    network = configuration["name"]
    aliases = _object(runtime, "aliases").get(network)
    fields = {
        "target": netns,
        "network": configuration.get("network") or network,
        "name": given.get("name") or arguments.get("NETAGENT_NAME") or endpoint_name(container_id, arguments),
        "service": given.get("service") or arguments.get("NETAGENT_SERVICE") or configuration.get("service"),
        "group": given.get("group") or arguments.get("NETAGENT_GROUP") or configuration.get("group"),
        "aliases": [one for source in (configuration, given) for one in _texts(source, "aliases")]
        + _texts({"aliases": aliases}, "aliases"),
        "links": [_link(one) for source in (configuration, given) for one in _texts(source, "links")],
        "ports": [_port(one) for source in (configuration, given) for one in _texts(source, "expose")],
        "checks": [one for source in (configuration, given) for one in _texts(source, "check")],
        "all_failing": given.get("all_failing") or configuration.get("all_failing"),
        "weight": given.get("weight") if "weight" in given else configuration.get("weight"),
        "publish": _publications(runtime.get("portMappings")),
        "labels": _labels(given, arguments),
        "ip": [
            one.partition("/")[0]
            for one in _texts(runtime, "ips") or _texts(given, "ips") or _split(arguments.get("IP", ""))
        ],
        "mac": runtime.get("mac") or given.get("mac") or arguments.get("MAC"),
        # After a plug-in that made CNI_IFNAME, ours needs another name: the container is then in both networks.
        "ifname": configuration.get("ifname") or ifname,
    }
    request = attach_untrusted(fields)
    return dataclasses.replace(request, target=f"cni:{container_id[:SHORT_ID]}")


def _refuse_unknown(configuration: Mapping[str, Any]) -> None:
    """Refuse unknown options: a misspelt one must not be ignored. Keys with a slash belong to the runtime."""
    for field in configuration:
        if field in _STANDARD or field in _OURS or "/" in field:
            continue
        near = difflib.get_close_matches(field, _OURS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "remove it"
        if field == "ipam":
            hint = "remove it: netagent assigns addresses itself, unique in the cluster"
        raise InputError(f"netagent has no option {field[:80]!r}", code=BAD_FIELD, hint=hint)


def _object(source: Mapping[str, Any], field: str) -> Mapping[str, Any]:
    value = source.get(field)
    if value is not None and not isinstance(value, dict):
        raise InputError(f"{field} is not an object", thing=field, hint='write {"key": "value"}')
    return value or {}


def _texts(source: Mapping[str, Any], field: str) -> list[str]:
    value = source.get(field)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InputError(f"{field} is not a list of texts", thing=field, hint=f'write "{field}": ["…"]')
    return value


def _publications(mappings: object) -> list[str]:
    """Parse `runtimeConfig.portMappings` (kubelet's hostPort). Port 0 of the host means none."""
    if mappings is None:
        return []
    if not isinstance(mappings, list) or not all(isinstance(one, dict) for one in mappings):
        raise InputError(
            "portMappings is not a list of objects",
            thing="portMappings",
            code=BAD_FIELD,
            hint='write [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]',
        )
    texts = []
    for one in mappings:
        address, protocol = one.get("hostIP") or "", one.get("protocol") or "tcp"
        if one.get("hostPort") == 0:
            continue
        place = f"[{address}]:" if address else ""
        texts.append(f"{place}{one.get('hostPort')}:{one.get('containerPort')}/{protocol}")
    return texts


def _split(text: str) -> list[str]:
    return [one for one in text.split(",") if one]


def _labels(given: Mapping[str, Any], arguments: Mapping[str, str]) -> dict[str, str]:
    """Return the labels of `args.cni`, in the form of the CNI conventions, and the pod's original name."""
    labels: dict[str, str] = {}
    items = given.get("labels") or []
    if not isinstance(items, list):
        raise InputError("labels is not a list", thing="labels", hint='write [{"key": "…", "value": "…"}]')
    for item in items:
        if not isinstance(item, dict) or not all(
            isinstance(item.get(part), str) for part in ("key", "value")
        ):
            raise InputError(
                "labels has an item without key and value",
                thing="labels",
                hint='write {"key": "…", "value": "…"}',
            )
        labels[item["key"]] = item["value"]
    for key, argument in (("name", "K8S_POD_NAME"), ("namespace", "K8S_POD_NAMESPACE")):
        if arguments.get(argument):
            labels[f"io.kubernetes.pod.{key}"] = arguments[argument]
    return labels


def _link(text: str) -> dict[str, str]:
    """`SERVICE[:ALIAS]`."""
    service, _, alias = text.partition(":")
    return {"service": service, "alias": alias}


def _port(text: str) -> dict[str, object]:
    """`[NAME=]80[/tcp][+ALPN…]`."""
    without, alpn = split_alpn(text)
    match = re.fullmatch(r"(?:([^=]+)=)?([0-9]{1,5})(?:/([A-Za-z]+))?", without, re.ASCII)
    if match is None:
        raise InputError(f"{text[:80]!r} is not a port", thing="expose", hint="write 80/tcp or NAME=80/tcp")
    name, number, protocol = match.groups()
    protocol = (protocol or "tcp").lower()
    return {"name": name or "", "number": int(number), "protocol": protocol, "alpn": list(alpn)}
