"""What the program `podman` prints, as values: only the fields that are used, checked for form. Pure.

The JSON of `podman container inspect` and `podman network ls` has been stable since Podman 4, which is the first
that knows plug-ins.
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
    """Of its first process, by Podman's belief; 0 when none runs."""
    labels: Mapping[str, str]
    pod: str = ""
    """The id of the pod whose infra container it is: the one that holds the pod's namespace. "" otherwise."""
    health_logs: tuple[str, ...] = ()
    """Where the log of its HEALTHCHECK may be; () when it has none."""
    is_checked_by_itself: bool = False
    """Podman has a timer of systemd's run the check; otherwise somebody has to, with `podman healthcheck run`."""
    folder: str = ""
    """The folder in which Podman keeps one folder for each container: it changes when any comes or goes."""
    resolv_conf: str = ""
    """Its resolv.conf, where Podman has written it."""
    published: tuple[str, ...] = ()
    """`8080:80/tcp`."""
    networks: tuple[str, ...] = ()
    """Podman's names of all its networks."""
    image: str = ""
    """The image's id."""
    flaw: str = ""
    """Why `labels` says nothing: Podman did not tell which of them are the image's."""


@dataclass(frozen=True, slots=True)
class PodmanNetwork:
    """A network as `podman network ls` describes it."""

    name: str
    driver: str
    labels: Mapping[str, str]
    options: Mapping[str, str]


def containers_untrusted(text: bytes) -> tuple[PodmanContainer, ...]:
    """InputError for anything but a list of containers."""
    return tuple(_container(given) for given in _objects_untrusted(text))


def image_labels_untrusted(text: bytes) -> dict[str, Mapping[str, str]]:
    """From `podman image inspect`: by image id. InputError."""
    return {_text(given, "Id"): _texts(given, "Labels") for given in _objects_untrusted(text)}


def networks_untrusted(text: bytes) -> tuple[PodmanNetwork, ...]:
    """InputError for anything but a list of networks."""
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
    """One id a line, as `podman ps -q` prints them."""
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
    resolv_conf = _text(given, "ResolvConfPath")  # elsewhere it is a user's or another container's
    return PodmanContainer(
        container_id=container_id,
        name=_text(given, "Name"),
        pid=pid,
        labels=_texts(config, "Labels"),
        pod=_text(given, "Pod") if given.get("IsInfra") is True else "",
        health_logs=tuple(_health_logs(config, container_id, home)),
        is_checked_by_itself=_part(config, "Healthcheck").get("Interval") != 0,
        folder=str(home.parent) if home else "",
        resolv_conf=resolv_conf if home and Path(resolv_conf).parent == home / "userdata" else "",
        published=tuple(sorted(_published(_part(host, "PortBindings")))),
        networks=tuple(_part(_part(given, "NetworkSettings"), "Networks")),
        image=_text(given, "Image"),
    )


def _run_folder(given: Mapping[str, Any], container_id: str) -> Path | None:
    """`<runroot>/<driver>-containers/<id>`. Options move each of the files that are in it elsewhere, but not all."""
    for key in ("PidFile", "HostnamePath", "ConmonPidFile", "ResolvConfPath", "HostsPath"):
        folder = Path(_text(given, key)).parent
        if folder.name == "userdata" and folder.parent.name == container_id:
            return folder.parent
    return None


def _health_logs(config: Mapping[str, Any], container_id: str, home: Path | None) -> Iterator[str]:
    test = _part(config, "Healthcheck").get("Test")
    if not test or test == ["NONE"]:  # an image's check, switched off
        return
    folder = _text(config, "HealthLogDestination")
    if folder.startswith("/"):
        yield f"{folder}/{container_id}-{LOG_NAME}"
    elif home is not None:  # "local", "events_logger", or an older Podman that knows no other place
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
    if not isinstance(text, str) or not text.isprintable():  # names and paths: both are used as such
        raise _unknown_form()
    return text


def _texts(given: Mapping[str, Any], key: str) -> Mapping[str, str]:
    return {name: text for name, text in _part(given, key).items() if isinstance(text, str)}


def _unknown_form() -> InputError:
    return InputError("podman's output has a form that is not known", hint="this needs Podman 4.4 to 5")
