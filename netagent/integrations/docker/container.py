"""A container as Docker's API describes it, and the fields of its endpoint. Pure.

    GET /containers/ID/json    name, labels, health, and for each network its endpoint, aliases and links
    GET /networks/ID           the endpoints and their containers

A container that was created but not started has networks without endpoint ids: its aliases and labels are known
before its first program runs, if the watcher saw the creation.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from dataclasses import fields as dataclass_fields
from typing import Any, Final, TypeGuard

from netagent.errors import InputError
from netagent.integrations.docker.protocol import NETWORK_OPTION
from netagent.integrations.labels import described, names_from
from netagent.model.check import Check
from netagent.model.ids import is_name, nearest_name
from netagent.model.locality import DEFAULT_WEIGHT
from netagent.model.records import MAX_ALIASES, Group, Health, Link, Port

MIRROR_LABEL = "netagent.network"
"""Label of a Docker network that an agent made for the network with this id, and removes with it."""
_PORT = re.compile(r"[0-9]{1,5}/(tcp|udp|sctp)")
MAX_LINKS = 64
STOP_TIMEOUT_S: Final = 10.0
"""Docker's default."""
MAX_STOP_TIMEOUT_S: Final = 10**9
MAX_PID = 1 << 22
"""PID_MAX_LIMIT of the kernel."""

_HEALTH = {"starting": Health.STARTING, "healthy": Health.HEALTHY, "unhealthy": Health.UNHEALTHY}


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """A container's place in a Docker network. `endpoint` and `network_id` are `""` before it starts."""

    network: str
    """The name or id by which the user chose it."""
    network_id: str
    endpoint: str
    aliases: tuple[str, ...]
    links: tuple[str, ...]
    """`CONTAINER:ALIAS`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DockerContainer:
    """The relevant facts about one container."""

    container_id: str
    name: str
    running: bool = False
    pid: int = 0
    """Pid of its first process on the host; 0 while it does not run."""
    sandbox_key: str = ""
    health: Health = Health.UNKNOWN
    has_check: bool = False
    """True if it has a health check; known before it is started."""
    stop_signal: str = ""
    """The signal by which Docker asks it to stop, as the user wrote it: `SIGQUIT`, `quit`, `3`; "": SIGTERM."""
    stop_timeout_s: float = STOP_TIMEOUT_S
    """How long it gets to stop, before Docker kills it; inf: for ever."""
    image: str = ""
    """The image's id."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Including those of its image."""
    published: tuple[str, ...] = ()
    """`8080:80/tcp`: ports of the host that Docker forwards to it."""
    interfaces: tuple[Interface, ...] = ()

    def interface_in(self, network: DockerNetwork) -> Interface | None:
        """Return its interface in one network."""
        for one in self.interfaces:
            if network.docker_id in {one.network_id, one.network} or one.network == network.name:
                return one
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class DockerNetwork:
    """A network as Docker describes it."""

    docker_id: str
    name: str
    driver: str
    ipam_driver: str = ""
    ipam_network: str = ""
    """The value of `--ipam-opt netagent.network=`."""
    mirror_of: str = ""
    """Id of the netagent network for which an agent made it."""
    endpoints: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Only when a single network is read: endpoint id -> (name, container id or '' while the container starts)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointFields:
    """The fields of an endpoint's row that Docker determines (Endpoints.change)."""

    name: str
    service: str
    aliases: tuple[str, ...] = ()
    ports: tuple[Port, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    links: tuple[Link, ...] = ()
    weight: int = DEFAULT_WEIGHT
    health: Health = Health.UNKNOWN
    group: Group | None = None
    checks: tuple[Check, ...] = ()
    keeps_names: bool = False


def fields_of(
    container: DockerContainer, interface: Interface | None
) -> tuple[EndpointFields, tuple[str, ...]]:
    """Return the fields of the endpoint, and one sentence for each invalid label."""
    found = described(
        container.labels,
        container.name,
        container_id=container.container_id,
        published=container.published,
    )
    name = nearest_name(container.name) or container.container_id[:12]
    aliases: tuple[str, ...] = ()
    links: tuple[Link, ...] = ()
    if interface is not None:
        short = container.container_id[:12]
        # Some releases of Docker add the short id to the aliases; it is useless as a name on other hosts.
        aliases = names_from(alias for alias in interface.aliases if alias not in {short, container.name})
        links = tuple(filter(None, map(_link, interface.links)))
    fields = EndpointFields(
        name=name,
        service=found.service or name,
        aliases=aliases[:MAX_ALIASES],
        ports=found.ports,
        weight=found.weight,
        labels=found.labels,
        links=links[:MAX_LINKS],
        health=container.health,
        group=found.group,
        checks=found.checks,
        keeps_names=found.keeps_names,
    )
    return fields, tuple(f"container {container.name}: {flaw}" for flaw in found.flaws)


def as_change(fields: EndpointFields) -> dict[str, Any]:
    """Return the fields as arguments of Endpoints.change."""
    return {one.name: getattr(fields, one.name) for one in dataclass_fields(fields)}


def _link(text: str) -> Link | None:
    service, _, alias = text.strip("/").partition(":")
    service, alias = nearest_name(service), nearest_name(alias.rpartition("/")[2])
    return Link(service=service, alias=alias or service) if is_name(service) else None


# -- from the API --------------------------------------------------------------------------------------------------


def container_untrusted(value: Any) -> DockerContainer:
    """Parse `GET /containers/ID/json`. Raises InputError."""
    top = _object(value)
    state, settings = _object(top.get("State")), _object(top.get("NetworkSettings"))
    health = _text(_object(state.get("Health")).get("Status"))
    config = _object(top.get("Config"))
    labels = _object(config.get("Labels"))
    check = _texts(_object(config.get("Healthcheck")).get("Test"))
    has_check = bool(check) and check[0] != "NONE"
    # Docker reports no health until the container's first program runs.
    unsaid = Health.STARTING if has_check and not health else Health.UNKNOWN
    pid = state.get("Pid")
    return DockerContainer(
        container_id=_id(top.get("Id")),
        name=_line(top.get("Name")).lstrip("/"),
        running=state.get("Running") is True,
        pid=pid if isinstance(pid, int) and not isinstance(pid, bool) and 0 < pid <= MAX_PID else 0,
        sandbox_key=_line(settings.get("SandboxKey")),
        health=_HEALTH.get(health, unsaid),
        has_check=has_check,
        stop_signal=_text(config.get("StopSignal")),
        stop_timeout_s=_stop_timeout(config.get("StopTimeout")),
        image=_line(top.get("Image")),
        labels={key: _text(text) for key, text in labels.items()},
        published=_published(_object(settings.get("Ports"))),
        interfaces=tuple(
            Interface(
                network=network,
                network_id=_text(_object(one).get("NetworkID")),
                endpoint=_text(_object(one).get("EndpointID")),
                aliases=_texts(_object(one).get("Aliases")),
                links=_texts(_object(one).get("Links")),
            )
            for network, one in _object(settings.get("Networks")).items()
        ),
    )


def _stop_timeout(seconds: Any) -> float:
    if not isinstance(seconds, int) or isinstance(seconds, bool):
        return STOP_TIMEOUT_S
    return math.inf if seconds < 0 else float(min(seconds, MAX_STOP_TIMEOUT_S))


def _published(ports: Mapping[str, Any]) -> tuple[str, ...]:
    """Return ports in the form of `attach --publish`. For a port on all addresses Docker lists one of each family."""
    found = set()
    for inside, bindings in ports.items():
        for binding in map(_object, _list(bindings)):
            host, port = _line(binding.get("HostIp")), _line(binding.get("HostPort"))
            if port.isascii() and port.isdigit() and len(port) <= 5 and _PORT.fullmatch(inside):
                place = "" if host in {"", "0.0.0.0", "::"} else f"[{host}]:" if ":" in host else f"{host}:"
                found.add(f"{place}{port}:{inside}")
    return tuple(sorted(found))


def image_labels_untrusted(value: Any) -> dict[str, str]:
    """Parse `GET /images/ID/json`. Raises InputError."""
    labels = _object(_object(_object(value).get("Config")).get("Labels"))
    return {key: _text(text) for key, text in labels.items()}


def network_untrusted(value: Any) -> DockerNetwork:
    """Parse `GET /networks/ID`, or one item of `GET /networks`. Raises InputError."""
    top = _object(value)
    ipam = _object(top.get("IPAM"))
    endpoints = {}
    for key, one in _object(top.get("Containers")).items():
        entry = _object(one)
        container_id = "" if key.startswith("ep-") else _id(key)
        endpoints[_text(entry.get("EndpointID"))] = (_text(entry.get("Name")), container_id)
    return DockerNetwork(
        docker_id=_id(top.get("Id")),
        name=_text(top.get("Name"), required="Name"),
        driver=_text(top.get("Driver")),
        ipam_driver=_text(ipam.get("Driver")),
        ipam_network=_text(_object(ipam.get("Options")).get(NETWORK_OPTION)),
        mirror_of=_text(_object(top.get("Labels")).get(MIRROR_LABEL)),
        endpoints=endpoints,
    )


def networks_untrusted(value: Any) -> list[DockerNetwork]:
    """Parse `GET /networks`. Raises InputError."""
    return [network_untrusted(one) for one in _list(value)]


def container_ids_untrusted(value: Any) -> list[tuple[str, tuple[str, ...]]]:
    """Parse `GET /containers/json`: ids, and the networks of each, as the user named them. Raises InputError."""
    return [
        (
            _id(_object(one).get("Id")),
            tuple(_object(_object(_object(one).get("NetworkSettings")).get("Networks"))),
        )
        for one in _list(value)
    ]


def is_id(value: object) -> TypeGuard[str]:
    """True if the value may be part of a path of the API."""
    return isinstance(value, str) and value.isascii() and value.isalnum()


def _id(value: Any) -> str:
    if not is_id(value):
        raise _wrong("an id")
    return value


def _line(value: Any) -> str:
    """Return a text that may become part of a path or of a name."""
    text = _text(value)
    if not text.isprintable():
        raise _wrong("a printable text")
    return text


def _object(value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _wrong("an object")
    return value


def _list(value: Any) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise _wrong("a list")
    return value


def _text(value: Any, *, required: str = "") -> str:
    if isinstance(value, str) and (value or not required):
        return value
    if value is None and not required:
        return ""
    raise _wrong(f"a text{' for ' + required if required else ''}")


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(_text(one) for one in _list(value))


def _wrong(what: str) -> InputError:
    return InputError(f"Docker's API did not answer with {what}", thing="docker", hint="see `docker version`")
