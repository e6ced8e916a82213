"""What a user names as TARGET, as the path of a network namespace.

netns:NAME  /PATH  pid:PID                  are paths already
docker: podman: unit: machine:NAME          are asked of whoever runs them: RuntimeTargets
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from netagent.errors import InputError
from netagent.model.ids import nearest_name
from netagent.model.number import MAX_PID, whole_number

NETNS_FOLDER = Path("/run/netns")


@dataclass(frozen=True, slots=True)
class Target:
    """A namespace by its path, and the name an endpoint in it gets when none is given ('' = none fits)."""

    text: str
    path: str
    default_name: str
    behind_runtime: bool = False
    """The runtime's own resolver holds 127.0.0.11 in there, and ours has to answer before it."""


class RuntimeTargets(Protocol):
    """Those who know their containers by name. Each raises NoError, RefusedError or FailedError with a way out."""

    async def docker(self, name: str) -> Target:
        """A running Docker container."""

    async def podman(self, name: str) -> Target:
        """A running container of rootful Podman."""

    async def unit(self, name: str) -> Target:
        """The main process of a systemd unit that has a namespace of its own."""

    async def machine(self, name: str) -> Target:
        """A machine that systemd-machined knows, such as one of systemd-nspawn."""


async def resolve(text: str, runtimes: RuntimeTargets) -> Target:
    """Whether the namespace exists is found out when it is opened.

    Raises InputError for a form that is unknown, and what `runtimes` raises.
    """
    kind, colon, rest = text.partition(":")
    if text.startswith("/"):
        return Target(text, text, nearest_name(netns_name_of(text)))
    if not colon or not rest:
        raise InputError(
            f"{text!r} is no target",
            thing=text,
            hint="give netns:NAME, the path of a network namespace, or pid:PID",
        )
    match kind:
        case "netns":
            if "/" in rest or rest in {".", ".."}:
                raise InputError(
                    f"{rest!r} is no name of a network namespace", thing=text, hint="see `ip netns list`"
                )
            return Target(text, str(NETNS_FOLDER / rest), nearest_name(rest))
        case "pid":
            pid = whole_number(rest, 1, MAX_PID)
            if pid is None:
                raise InputError(f"{rest[:80]!r} is no process id", thing=text[:80], hint="give a number")
            return Target(text, netns_of_pid(pid), "")
        case "docker":
            return await runtimes.docker(rest)
        case "podman":
            return await runtimes.podman(rest)
        case "unit":
            return await runtimes.unit(rest)
        case "machine":
            return await runtimes.machine(rest)
    hint = "give netns:NAME, a path, pid:PID, docker:NAME, podman:NAME, unit:NAME or machine:NAME"
    raise InputError(f"{kind!r} is no kind of target", thing=text, hint=hint)


def netns_name_of(path: str) -> str:
    """The name of a named namespace, '' for any other path."""
    return Path(path).name if path and Path(path).parent == NETNS_FOLDER else ""


def netns_of_pid(pid: int) -> str:
    """Where the kernel shows the network namespace of a process."""
    return f"/proc/{pid}/ns/net"
