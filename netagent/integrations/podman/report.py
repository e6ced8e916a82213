"""The output of the program `podman` as values: only the fields in use, with their form checked. Pure.

The JSON of `podman container inspect` and `podman network ls` has been stable since Podman 4, the first release with
plug-ins.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from netagent.errors import InputError

LOG_NAME = "healthcheck.log"


@dataclass(frozen=True, slots=True)
class PodmanContainer:
    """A container as `podman container inspect` describes it."""

    container_id: str
    name: str
    pid: int
    """Pid of its first process, according to Podman; 0 when none runs."""
    labels: Mapping[str, str]
    pod: str = ""
    """The id of the pod, if it is the infra container, which owns the pod's namespace; else ""."""
    health_logs: tuple[str, ...] = ()
    """Possible paths of the log of its HEALTHCHECK; () when it has none."""
    is_checked_by_itself: bool = False
    """True if a systemd timer runs the check; otherwise a user must run it, with `podman healthcheck run`."""
    folder: str = ""
    """The folder in which Podman has one folder per container: it changes when one is created or removed."""
    storage: str = ""
    """The folder of Podman's storage, in which its database is."""
    resolv_conf: str = ""
    """The path of its resolv.conf, as written by Podman."""
    published: tuple[str, ...] = ()
    """`8080:80/tcp`."""
    networks: tuple[str, ...] = ()
    """Podman's names of all its networks."""
    image: str = ""
    """The image's id."""
    flaw: str = ""
    """Why `labels` is empty: Podman did not report which of them are the image's."""


@dataclass(frozen=True, slots=True)
class PodmanNetwork:
    """A network as `podman network ls` describes it."""

    name: str
    driver: str
    labels: Mapping[str, str]
    options: Mapping[str, str]


def containers_untrusted(text: bytes) -> tuple[PodmanContainer, ...]:
    """Parse a list of containers. Raises InputError for anything else."""
    return tuple(_container(given) for given in _objects_untrusted(text))


def image_labels_untrusted(text: bytes) -> dict[str, Mapping[str, str]]:
    """Parse `podman image inspect`: labels by image id. Raises InputError."""
    return {_text(given, "Id"): _texts(given, "Labels") for given in _objects_untrusted(text)}


def networks_untrusted(text: bytes) -> tuple[PodmanNetwork, ...]:
    """Parse a list of networks. Raises InputError for anything else."""
    return tuple(
        PodmanNetwork(
            name=_text(given, "name"),
            driver=_text(given, "driver"),
            labels=_texts(given, "labels"),
            options=_texts(given, "options"),
        )
        for given in _objects_untrusted(text)
    )


def ids_untrusted(text: bytes) -> tuple[str, ...]:
    """Parse one id per line, as `podman ps -q` prints them."""
    ids = tuple(text.decode("ascii", "replace").split())
    if not all(one.isalnum() for one in ids):
        raise _unknown_form()
    return ids


def _container(given: Mapping[str, Any]) -> PodmanContainer:
    state, config, host = _part(given, "State"), _part(given, "Config"), _part(given, "HostConfig")
    container_id, pid = _text(given, "Id"), state.get("Pid", 0)
    if not isinstance(pid, int) or isinstance(pid, bool):
        raise _unknown_form()
    home = _run_folder(given, container_id)
    resolv_conf = _text(given, "ResolvConfPath")  # elsewhere it belongs to a user or to another container
    return PodmanContainer(
        container_id=container_id,
        name=_text(given, "Name"),
        pid=pid,
        labels=_texts(config, "Labels"),
        pod=_text(given, "Pod") if given.get("IsInfra") is True else "",
        health_logs=tuple(_health_logs(config, container_id, home)),
        is_checked_by_itself=_part(config, "Healthcheck").get("Interval") != 0,
        folder=str(home.parent) if home else "",
        storage=_storage(_text(given, "StaticDir"), container_id),
        resolv_conf=resolv_conf if home and Path(resolv_conf).parent == home / "userdata" else "",
        published=tuple(sorted(_published(_part(host, "PortBindings")))),
        networks=tuple(_part(_part(given, "NetworkSettings"), "Networks")),
        image=_text(given, "Image"),
    )


def _run_folder(given: Mapping[str, Any], container_id: str) -> Path | None:
    """Find `<runroot>/<driver>-containers/<id>`. Options can move each of its files elsewhere, but not all."""
    for key in ("PidFile", "HostnamePath", "ConmonPidFile", "ResolvConfPath", "HostsPath"):
        folder = Path(_text(given, key)).parent
        if folder.name == "userdata" and folder.parent.name == container_id:
            return folder.parent
    return None


def _storage(static_folder: str, container_id: str) -> str:
    """Find the storage of `<storage>/<driver>-containers/<id>/userdata`."""
    folder = Path(static_folder)
    is_known = folder.is_absolute() and folder.parent.name == container_id
    return str(folder.parents[2]) if is_known else ""


def _health_logs(config: Mapping[str, Any], container_id: str, home: Path | None) -> Iterator[str]:
    test = _part(config, "Healthcheck").get("Test")
    if not test or test == ["NONE"]:  # the image's check is disabled
        return
    folder = _text(config, "HealthLogDestination")
    if folder.startswith("/"):
        yield f"{folder}/{container_id}-{LOG_NAME}"
    elif home is not None:  # "local", "events_logger", or an older Podman that has no other place
        yield str(home / LOG_NAME)


def _published(bindings: Mapping[str, Any]) -> Iterator[str]:
    for inside, outside in bindings.items():
        for binding in outside if isinstance(outside, list) else ():
            if isinstance(binding, dict):
                yield f"{_text(binding, 'HostPort')}:{inside}"


def _objects_untrusted(text: bytes) -> list[Mapping[str, Any]]:
    try:
        given = json.loads(text)
    except (ValueError, RecursionError):
        raise _unknown_form() from None
    if given is None:
        return []
    if not isinstance(given, list) or not all(isinstance(one, dict) for one in given):
        raise _unknown_form()
    return given


def _part(given: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    part = given.get(key) or {}
    if not isinstance(part, dict):
        raise _unknown_form()
    return part


def _text(given: Mapping[str, Any], key: str) -> str:
    text = given.get(key) or ""
    if not isinstance(text, str) or not text.isprintable():  # names and paths are used as they are
        raise _unknown_form()
    return text


def _texts(given: Mapping[str, Any], key: str) -> Mapping[str, str]:
    return {name: text for name, text in _part(given, key).items() if isinstance(text, str)}


def _unknown_form() -> InputError:
    return InputError("podman's output has an unknown form", hint="netagent needs Podman 4.4 to 5")
