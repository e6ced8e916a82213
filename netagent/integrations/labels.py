"""Meaning of a container's labels and of names in its runtime. Pure; used for every runtime.

    netagent.service=web                the service that it belongs to (default: its name)
    netagent.group=shop                 the group that it belongs to (default: compose's project)
    netagent.expose=http=80/tcp,53/udp  ports by name, for SRV; the name of a port defaults to its number
    netagent.expose=https=443/tcp+h2    … with the protocols that its server speaks behind TLS, for HTTPS and SVCB
    netagent.address=true               its service gets an address of its own
    netagent.weight=10                  its share among the replicas of its service (default: 100)
    netagent.txt.KEY=VALUE              KEY=VALUE in TXT records
    netagent.check=http:8080/healthz    a check (netagent.checks.spec); further ones as netagent.check.NAME=…
    netagent.all-failing=keep           names lead to it while it is unhealthy and no other replica is up

Runtimes allow names that DNS does not (`Web.1`): these are mapped, and the label `netagent.original-name` keeps the
original. An invalid label is ignored with a warning: a typo in a label must not prevent a container from starting.
The container's other labels become part of its record, except those that runtimes and builders write for themselves:
compose alone adds a kilobyte of paths and hashes per container, useless on other hosts. Of these the record keeps,
under netagent's own names, what users know the container by: its id, and compose's project and service.

Runtimes merge the labels of an image into those of its containers. netagent's labels count only if the operator gave
them to the container: the maker of an image must not choose the service of its containers. Compose's count only if
compose made the container: an image that was made from such a container has them all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256

from netagent.checks.spec import parse_check_untrusted
from netagent.errors import InputError
from netagent.model.check import MAX_CHECKS, Check
from netagent.model.ids import is_name, nearest_name
from netagent.model.locality import DEFAULT_WEIGHT, MAX_WEIGHT
from netagent.model.origin_labels import (
    ADDRESS,
    COMPOSE_PROJECT,
    COMPOSE_SERVICE,
    CONTAINER_ID,
    ORIGINAL_NAME,
    PUBLISHED,
    TXT_LABELS,
    YES,
    address_flaw,
)
from netagent.model.port import alpn_flaw, has_too_many_alpn, split_alpn
from netagent.model.records import Group, Port
from netagent.model.txt import text_flaw

SERVICE = "netagent.service"
GROUP = "netagent.group"
EXPOSE = "netagent.expose"
CHECK = "netagent.check"
ALL_FAILING = "netagent.all-failing"
WEIGHT = "netagent.weight"

MAX_PORTS = 64
MAX_LABELS = 64
MAX_KEY_CHARS, MAX_VALUE_CHARS = 255, 4096
"""The bound of records; a longer label is left out alone, or the container would have no record at all."""
MAX_OWN_CHARS = 2048
_MAX_WEIGHT_DIGITS = 4
MAX_PUBLISHED = 32
"""Most ports of the host that are shown, each of at most 60 characters."""
MAX_LABELS_BYTES = 8 * 1024
"""Bound of labels of one container in its record; beyond it: further ones are left out. A record may have 32 KiB in
all (netagent.registry.record_codec)."""

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
"""A label that compose gives to containers only; images that it builds have project and service, too."""
_PORT = re.compile(r"(?:([^=/\s]+)=)?([0-9]{1,5})(?:/(tcp|udp|sctp))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """What labels say about an endpoint."""

    service: str = ""
    """`""`: no label, so the name of the endpoint."""
    group: Group | None = None
    ports: tuple[Port, ...] = ()
    checks: tuple[Check, ...] = ()
    keeps_names: bool = False
    weight: int = DEFAULT_WEIGHT
    labels: tuple[tuple[str, str], ...] = ()
    """Labels to publish, sorted by key."""
    flaws: tuple[str, ...] = ()
    """One sentence for each invalid label."""


def names_from(texts: Iterable[str]) -> tuple[str, ...]:
    """Convert several foreign names, sorted, without those that have no valid character."""
    return tuple(sorted({name for name in map(nearest_name, texts) if name}))


def without_image(labels: Mapping[str, str], image: Mapping[str, str]) -> dict[str, str]:
    """Return a container's labels without netagent's labels that its image has with the same value, and without
    compose's if the image has all of them.

    Compose gives an image that it builds the project and service of the containers that it makes from it."""
    others = {key: value for key, value in labels.items() if image.get(key) != value}
    is_made = any(key.startswith(_COMPOSE) for key in others)
    dropped = (_OURS,) if is_made else (_OURS, *_COMPOSE)
    return {key: value for key, value in labels.items() if key in others or not key.startswith(dropped)}


def without_choices(labels: Mapping[str, str]) -> dict[str, str]:
    """Return a container's labels without those that choose names, groups or checks: netagent's and compose's."""
    return {key: value for key, value in labels.items() if not key.startswith((_OURS, *_COMPOSE))}


def has_ours(labels: Iterable[str]) -> bool:
    """True if the labels of the image are needed, because there are netagent's or compose's."""
    return any(key.startswith((_OURS, *_COMPOSE)) for key in labels)


def described(
    labels: Mapping[str, str],
    original_name: str,
    *,
    container_id: str = "",
    published: Iterable[str] = (),
) -> Described:
    """Read a container's labels, without those of its image. Never refuses; see `flaws`. `published`: ports of the
    host that the runtime forwards to it."""
    flaws: list[str] = []
    service = _name_in(labels, SERVICE, flaws)
    ports: list[Port] = []
    for text in filter(None, map(str.strip, labels.get(EXPOSE, "").split(","))):
        port = _port(text)
        if port is None or len(ports) >= MAX_PORTS:
            flaws.append(
                f"the label {EXPOSE} has {text[:80]!r}; write [NAME=]PORT[/tcp|udp|sctp][+ALPN], separated by "
                "commas"
            )
        elif has_too_many_alpn(one.alpn for one in (*ports, port)):
            flaws.append(f"the label {EXPOSE} has too many ALPN protocols: {text[:80]!r} is left out")
        elif port not in ports:
            ports.append(port)
    flaws += [f"the label {key[:80]}: {flaw}" for key in labels if (flaw := text_flaw(key, labels[key]))]
    found = {
        ORIGINAL_NAME: original_name if nearest_name(original_name) != original_name else "",
        CONTAINER_ID: container_id,
        COMPOSE_PROJECT: _by_compose(labels, "project"),
        COMPOSE_SERVICE: _by_compose(labels, "service"),
        PUBLISHED: ",".join(list(published)[:MAX_PUBLISHED]),
        ADDRESS: _address(labels, flaws),
    }
    return Described(
        service=service,
        group=_group(labels, _name_in(labels, GROUP, flaws), service),
        ports=tuple(ports),
        checks=_checks(labels, flaws),
        keeps_names=_keeps_names(labels, flaws),
        weight=_weight(labels, flaws),
        labels=_published(labels, found),
        flaws=tuple(flaws),
    )


def _name_in(labels: Mapping[str, str], key: str, flaws: list[str]) -> str:
    """Return the name that a label has, or the nearest one, and note its flaw."""
    text = labels.get(key, "")
    if text and not is_name(text):
        flaws.append(f"the label {key}={text[:80]!r} is not a name; use a-z, 0-9, - and _ inside, at most 63")
    return nearest_name(text)


def _group(labels: Mapping[str, str], chosen: str, service: str) -> Group | None:
    """Return the container's group: the `chosen` one, or compose's project. Its service there is compose's, else the
    `service` of its label."""
    service = nearest_name(_by_compose(labels, "service")) or service
    project, folder = nearest_name(_by_compose(labels, "project")), _by_compose(labels, "project.working_dir")
    if chosen or not project:
        return Group(chosen, service or None) if chosen else None
    return Group(
        project, service or None, sha256(folder.encode(errors="replace")).digest()[:8] if folder else None
    )


def _by_compose(labels: Mapping[str, str], what: str) -> str:
    """Return what compose says of a container that it made; "" for others."""
    if not any(prefix + _COMPOSE_MARK in labels for prefix in _COMPOSE):
        return ""
    return next(filter(None, (labels.get(prefix + what, "") for prefix in _COMPOSE)), "")


def _port(text: str) -> Port | None:
    without, alpn = split_alpn(text)
    match = _PORT.fullmatch(without)
    if match is None or not 1 <= int(match[2]) <= 65535 or alpn_flaw(alpn):
        return None
    name = match[1] or str(int(match[2]))
    return Port(name, int(match[2]), match[3] or "tcp", alpn) if is_name(name) else None


def _weight(labels: Mapping[str, str], flaws: list[str]) -> int:
    """Return the weight that a label has, or the default one, and note its flaw."""
    text = labels.get(WEIGHT, str(DEFAULT_WEIGHT))
    if text.isascii() and text.isdecimal() and len(text) <= _MAX_WEIGHT_DIGITS and int(text) <= MAX_WEIGHT:
        return int(text)
    flaws.append(f"the label {WEIGHT}={text[:80]!r} is not a weight; write a number from 0 to {MAX_WEIGHT}")
    return DEFAULT_WEIGHT


def _address(labels: Mapping[str, str], flaws: list[str]) -> str:
    """Return the label's value if it asks for an address of the service, else ""; note its flaw."""
    text = labels.get(ADDRESS, "")
    if text and (flaw := address_flaw(text)):
        flaws.append(f"the label {ADDRESS} {flaw}, and is ignored; write true or false")
    return text if text == YES else ""


def _checks(labels: Mapping[str, str], flaws: list[str]) -> tuple[Check, ...]:
    """Parse the checks in the order of their labels' names; add a sentence to `flaws` for each that is ignored."""
    found: dict[Check, None] = {}
    for key in sorted(key for key in labels if key == CHECK or key.startswith(f"{CHECK}.")):
        try:
            check = parse_check_untrusted(labels[key])
        except InputError as error:
            flaws.append(f"the label {key[:80]} is ignored: {error}")
            continue
        if len(found) >= MAX_CHECKS and check not in found:
            flaws.append(f"the label {key[:80]} is ignored: an endpoint has at most {MAX_CHECKS} checks")
            continue
        found[check] = None
    return tuple(found)


def _keeps_names(labels: Mapping[str, str], flaws: list[str]) -> bool:
    word = labels.get(ALL_FAILING, "hide")
    if word not in {"hide", "keep"}:
        flaws.append(f"the label {ALL_FAILING}={word[:80]!r} is ignored; write hide or keep")
    return word == "keep"


def _published(labels: Mapping[str, str], found: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Return the labels to publish. `found`: labels that the agent itself adds; empty ones are left out."""
    kept = {key: text[:MAX_OWN_CHARS] for key, text in found.items() if text and text.isprintable()}
    own_count = len(kept)
    room_bytes = MAX_LABELS_BYTES
    for key in sorted(labels):
        value = labels[key]
        is_theirs = key.startswith((_OURS, *_OF_RUNTIMES)) and not key.startswith(TXT_LABELS)
        if not key or is_theirs or not (key + value).isprintable():
            continue
        if len(key) > MAX_KEY_CHARS or len(value) > MAX_VALUE_CHARS:
            continue
        room_bytes -= len(key.encode()) + len(value.encode())
        if room_bytes < 0 or len(kept) >= MAX_LABELS + own_count:
            break
        kept[key] = value
    return tuple(sorted(kept.items()))
