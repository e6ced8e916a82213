"""A container as Docker's API tells of it, and the endpoint we make of it. Pure.

    GET /containers/ID/json    name, labels, health, and for each network its endpoint, aliases and links
    GET /networks/ID           which endpoints there are, and whose

A container that was created but not started has networks without endpoint ids: its aliases and labels are known
before its first program runs, if the creation was noticed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from dataclasses import fields as dataclass_fields
from typing import Any, TypeGuard

from netagent.errors import InputError
from netagent.integrations.docker.protocol import NETWORK_OPTION
from netagent.integrations.labels import described, names_from
from netagent.model.ids import is_name, nearest_name
from netagent.model.records import Health, Link, Port

MIRROR_LABEL = "netagent.network"
"""On a Docker network: made by an agent for the network with this id, and removed with it."""
_PORT = re.compile(r"[0-9]{1,5}/(tcp|udp|sctp)")
MAX_LINKS = 64
MAX_ALIASES = 64
MAX_PID = 1 << 22
"""PID_MAX_LIMIT of the kernel."""

_HEALTH = {"starting": Health.STARTING, "healthy": Health.HEALTHY, "unhealthy": Health.UNHEALTHY}


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """A container's place in a Docker network. `endpoint` and `network_id` are `""` before it starts."""

    network: str
    """As the user named it, or its name."""
    network_id: str
    endpoint: str
    aliases: tuple[str, ...]
    links: tuple[str, ...]
    """`CONTAINER:ALIAS`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DockerContainer:
    """What matters of one container."""

    container_id: str
    name: str
    running: bool = False
    pid: int = 0
    """Of its first process, on the host; 0 while it does not run."""
    sandbox_key: str = ""
    health: Health = Health.UNKNOWN
    has_check: bool = False
    """It has a health check, also before it is started."""
    image: str = ""
    """The image's id."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Its image's among them."""
    published: tuple[str, ...] = ()
    """`8080:80/tcp`: ports of the host that Docker leads to it."""
    interfaces: tuple[Interface, ...] = ()

    def interface_in(self, network: DockerNetwork) -> Interface | None:
        """Its place in one network."""
        for one in self.interfaces:
            if network.docker_id in {one.network_id, one.network} or one.network == network.name:
                return one
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class DockerNetwork:
    """A network as Docker has it."""

    docker_id: str
    name: str
    driver: str
    ipam_driver: str = ""
    ipam_network: str = ""
    """What `--ipam-opt netagent.network=` said."""
    mirror_of: str = ""
    """Id of the network that an agent made it for."""
    endpoints: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Only of a single network: endpoint id -> (name, container id or '' while the container starts)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointFields:
    """What an endpoint's row says for people and programs (Endpoints.change)."""

    name: str
    service: str
    aliases: tuple[str, ...] = ()
    ports: tuple[Port, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    links: tuple[Link, ...] = ()
    health: Health = Health.UNKNOWN


def fields_of(
    container: DockerContainer, interface: Interface | None
) -> tuple[EndpointFields, tuple[str, ...]]:
    """The endpoint, and one sentence for each thing in its labels that can't be followed."""
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
        # Docker adds the short id to the aliases of some of its releases; nobody asks for it by that on other hosts.
        aliases = names_from(alias for alias in interface.aliases if alias not in {short, container.name})
        links = tuple(filter(None, map(_link, interface.links)))
    fields = EndpointFields(
        name=name,
        service=found.service or name,
        aliases=aliases[:MAX_ALIASES],
        ports=found.ports,
        labels=found.labels,
        links=links[:MAX_LINKS],
        health=container.health,
    )
    return fields, tuple(f"container {container.name}: {flaw}" for flaw in found.flaws)


def as_change(fields: EndpointFields) -> dict[str, Any]:
    """As Endpoints.change takes them."""
    return {one.name: getattr(fields, one.name) for one in dataclass_fields(fields)}


def _link(text: str) -> Link | None:
    service, _, alias = text.strip("/").partition(":")
    service, alias = nearest_name(service), nearest_name(alias.rpartition("/")[2])
    return Link(service=service, alias=alias or service) if is_name(service) else None


# -- from the API --------------------------------------------------------------------------------------------------


def container_untrusted(value: Any) -> DockerContainer:
    """From `GET /containers/ID/json`. InputError."""
    top = _object(value)
    state, settings = _object(top.get("State")), _object(top.get("NetworkSettings"))
    health = _text(_object(state.get("Health")).get("Status"))
    config = _object(top.get("Config"))
    labels = _object(config.get("Labels"))
    check = _texts(_object(config.get("Healthcheck")).get("Test"))
    has_check = bool(check) and check[0] != "NONE"
    # Docker says nothing of it until its first program runs.
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


def _published(ports: Mapping[str, Any]) -> tuple[str, ...]:
    """As `attach --publish` writes them. Docker tells of an address of each family where a port is open on all."""
    found = set()
    for inside, bindings in ports.items():
        for binding in map(_object, _list(bindings)):
            host, port = _line(binding.get("HostIp")), _line(binding.get("HostPort"))
            if port.isascii() and port.isdigit() and len(port) <= 5 and _PORT.fullmatch(inside):
                place = "" if host in {"", "0.0.0.0", "::"} else f"[{host}]:" if ":" in host else f"{host}:"
                found.add(f"{place}{port}:{inside}")
    return tuple(sorted(found))


def image_labels_untrusted(value: Any) -> dict[str, str]:
    """From `GET /images/ID/json`. InputError."""
    labels = _object(_object(_object(value).get("Config")).get("Labels"))
    return {key: _text(text) for key, text in labels.items()}


def network_untrusted(value: Any) -> DockerNetwork:
    """From `GET /networks/ID`, or one item of `GET /networks`. InputError."""
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
    """From `GET /networks`. InputError."""
    return [network_untrusted(one) for one in _list(value)]


def container_ids_untrusted(value: Any) -> list[tuple[str, tuple[str, ...]]]:
    """From `GET /containers/json`: ids, and the networks each is in, as the user named them. InputError."""
    return [
        (
            _id(_object(one).get("Id")),
            tuple(_object(_object(_object(one).get("NetworkSettings")).get("Networks"))),
        )
        for one in _list(value)
    ]


def is_id(value: object) -> TypeGuard[str]:
    """Whether it can stand in a path of the API."""
    return isinstance(value, str) and value.isascii() and value.isalnum()


def _id(value: Any) -> str:
    if not is_id(value):
        raise _wrong("an id")
    return value


def _line(value: Any) -> str:
    """A text that may become part of a path or of a name."""
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
