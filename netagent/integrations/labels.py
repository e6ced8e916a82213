"""What a container's labels and its runtime's names mean to us. Pure; used for every runtime.

    netagent.service=web                the service it answers for (default: its name)
    netagent.expose=http=80/tcp,53/udp  ports by name, for SRV; a port without a name has its number for one

Runtimes allow names that DNS does not (`Web.1`): they are mapped, and the original is kept as the label
`netagent.original-name`. A label with a flaw is passed over and said so: a typo in a label must not keep a container
from starting. A container's other labels go into its record, but for those that runtimes and builders write for
themselves: compose alone adds a kilobyte of paths and hashes to each container, which no other host can use. Of these
the record has, under names of ours, what people call the container by: its id, and compose's project and service.

Runtimes mix the labels of a container's image into its own. Labels of ours count only where the operator gave them to
the container: whoever made an image must not choose under which service it answers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from netagent.model.ids import is_name, nearest_name
from netagent.model.origin_labels import (
    COMPOSE_PROJECT,
    COMPOSE_SERVICE,
    CONTAINER_ID,
    ORIGINAL_NAME,
    PUBLISHED,
)
from netagent.model.records import Port

SERVICE = "netagent.service"
EXPOSE = "netagent.expose"

MAX_PORTS = 64
MAX_LABELS = 64
MAX_KEY_CHARS, MAX_VALUE_CHARS = 255, 4096
"""As records allow; a longer one is left out by itself, or the container would have no record at all."""
MAX_OWN_CHARS = 2048
MAX_PUBLISHED = 32
"""Ports of the host that are shown, each of at most 60 characters."""
MAX_LABELS_BYTES = 8 * 1024
"""Of an endpoint's record, which may have 32 KiB in all (netagent.registry.record_codec); further labels are left
out.
"""

_OURS = "netagent."
_OF_RUNTIMES = (
    "com.docker.",
    "desktop.docker.",
    "io.podman.",
    "io.buildah.",
    "org.opencontainers.",
    "io.kubernetes.",
)
_COMPOSE = ("com.docker.compose.", "io.podman.compose.")
_COMPOSE_MARK = "container-number"
"""What compose gives to containers only; project and service stand in the labels of images that it has built, too."""
_PORT = re.compile(r"(?:([^=/\s]+)=)?([0-9]{1,5})(?:/(tcp|udp|sctp))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """What labels say of an endpoint."""

    service: str = ""
    """`""`: nothing, so its name."""
    ports: tuple[Port, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    """Sorted by key: those to be published."""
    flaws: tuple[str, ...] = ()
    """One sentence for each label that can't be followed."""


def names_from(texts: Iterable[str]) -> tuple[str, ...]:
    """Several of them, sorted, without those of which nothing is left."""
    return tuple(sorted({name for name in map(nearest_name, texts) if name}))


def without_image(labels: Mapping[str, str], image: Mapping[str, str]) -> dict[str, str]:
    """A container's labels without those of ours that its image has with the same value."""
    return {
        key: value for key, value in labels.items() if not key.startswith(_OURS) or image.get(key) != value
    }


def has_ours(labels: Iterable[str]) -> bool:
    """Whether the image has to be asked for."""
    return any(key.startswith(_OURS) for key in labels)


def described(
    labels: Mapping[str, str],
    original_name: str,
    *,
    container_id: str = "",
    published: Iterable[str] = (),
) -> Described:
    """Read a container's labels, those of its image taken away. Never refuses; see `flaws`. `published`: ports of the
    host that the runtime leads to it."""
    flaws: list[str] = []
    service = labels.get(SERVICE, "")
    if service and not is_name(service):
        flaws.append(
            f"the label {SERVICE}={service[:80]!r} is not a name; use a-z, 0-9, - and _ inside, at most 63"
        )
        service = nearest_name(service)
    ports: list[Port] = []
    for text in filter(None, map(str.strip, labels.get(EXPOSE, "").split(","))):
        port = _port(text)
        if port is None or len(ports) >= MAX_PORTS:
            flaws.append(
                f"the label {EXPOSE} has {text[:80]!r}; write [NAME=]PORT[/tcp|udp|sctp], comma between"
            )
        elif port not in ports:
            ports.append(port)
    found = {
        ORIGINAL_NAME: original_name if nearest_name(original_name) != original_name else "",
        CONTAINER_ID: container_id,
        COMPOSE_PROJECT: _by_compose(labels, "project"),
        COMPOSE_SERVICE: _by_compose(labels, "service"),
        PUBLISHED: ",".join(list(published)[:MAX_PUBLISHED]),
    }
    return Described(
        service=service, ports=tuple(ports), labels=_published(labels, found), flaws=tuple(flaws)
    )


def _by_compose(labels: Mapping[str, str], what: str) -> str:
    """Compose's project or service of a container that compose made; "" for others."""
    if not any(prefix + _COMPOSE_MARK in labels for prefix in _COMPOSE):
        return ""
    return next(filter(None, (labels.get(prefix + what, "") for prefix in _COMPOSE)), "")


def _port(text: str) -> Port | None:
    match = _PORT.fullmatch(text)
    if match is None or not 1 <= int(match[2]) <= 65535:
        return None
    name = match[1] or str(int(match[2]))
    return Port(name=name, number=int(match[2]), protocol=match[3] or "tcp") if is_name(name) else None


def _published(labels: Mapping[str, str], found: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """`found`: labels that the agent writes by itself; the empty ones are left out."""
    kept = {key: text[:MAX_OWN_CHARS] for key, text in found.items() if text and text.isprintable()}
    own_count = len(kept)
    room_bytes = MAX_LABELS_BYTES
    for key in sorted(labels):
        value = labels[key]
        if not key or key.startswith((_OURS, *_OF_RUNTIMES)) or not (key + value).isprintable():
            continue
        if len(key) > MAX_KEY_CHARS or len(value) > MAX_VALUE_CHARS:
            continue
        room_bytes -= len(key.encode()) + len(value.encode())
        if room_bytes < 0 or len(kept) >= MAX_LABELS + own_count:
            break
        kept[key] = value
    return tuple(sorted(kept.items()))
