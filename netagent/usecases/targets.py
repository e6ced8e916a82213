"""What a user names as TARGET, as the path of a network namespace."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from netagent.errors import InputError, RefusedError
from netagent.model.ids import is_name

NETNS_FOLDER = Path("/run/netns")
_RUNTIMES = {
    "docker": "docker inspect -f '{{.State.Pid}}' {name}",
    "podman": "podman inspect -f '{{.State.Pid}}' {name}",
    "unit": "systemctl show -p MainPID --value {name}",
}


@dataclass(frozen=True, slots=True)
class Target:
    """A namespace by its path, and the name an endpoint in it gets when none is given ('' = none fits)."""

    text: str
    path: str
    default_name: str
    behind_runtime: bool = False
    """The runtime's own resolver holds 127.0.0.11 in there, and ours has to answer before it."""


def resolve(text: str) -> Target:
    """Whether the namespace exists is found out when it is opened.

    Raises InputError for a form that is unknown, RefusedError for a runtime that this version does not ask.
    """
    kind, colon, rest = text.partition(":")
    if text.startswith("/"):
        named = netns_name_of(text)
        return Target(text, text, _as_name(named))
    if not colon or not rest:
        raise InputError(
            f"{text!r} is no target",
            thing=text,
            hint="give netns:NAME, the path of a network namespace, or pid:PID",
        )
    if kind == "netns":
        if "/" in rest or rest in {".", ".."}:
            raise InputError(
                f"{rest!r} is no name of a network namespace", thing=text, hint="see `ip netns list`"
            )
        return Target(text, str(NETNS_FOLDER / rest), _as_name(rest))
    if kind == "pid":
        if not rest.isascii() or not rest.isdigit():
            raise InputError(f"{rest!r} is no process id", thing=text, hint="give a number")
        return Target(text, f"/proc/{int(rest)}/ns/net", "")
    if kind in _RUNTIMES:
        way = _RUNTIMES[kind].replace("{name}", rest)
        raise RefusedError(
            f"this version cannot ask {kind} for {rest!r}",
            code="not-supported",
            thing=text,
            hint=f"attach its process instead: pid:$({way})",
        )
    raise InputError(f"{kind!r} is no kind of target", thing=text, hint="give netns:NAME, a path, or pid:PID")


def netns_name_of(path: str) -> str:
    """The name of a named namespace, '' for any other path."""
    return Path(path).name if path and Path(path).parent == NETNS_FOLDER else ""


def _as_name(text: str) -> str:
    """The nearest valid name, '' when there is none."""
    cleaned = re.sub(r"[^a-z0-9_-]+", "-", text.lower()).strip("-_")[:63].strip("-_")
    return cleaned if is_name(cleaned) else ""
