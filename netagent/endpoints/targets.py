"""Resolution of TARGET to the path of a network namespace.

netns:NAME  /PATH  pid:PID                  map to paths directly
docker: podman: unit: machine:NAME          their runtime knows the path: `runtimes`
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from netagent.errors import InputError
from netagent.journal.rows import LocalEndpointRow
from netagent.model.ids import nearest_name
from netagent.model.number import MAX_PID, whole_number
from netagent.model.sandbox import NetnsIdentity

NETNS_FOLDER = Path("/run/netns")


@dataclass(frozen=True, slots=True)
class Target:
    """The path of a namespace, and the default name of an endpoint in it ('': none is valid)."""

    text: str
    path: str
    default_name: str
    behind_runtime: bool = False
    """True if the runtime's own resolver listens on 127.0.0.11 there, so that queries must be redirected to ours."""


RuntimeTargets: TypeAlias = Mapping[str, Callable[[str], Awaitable[Target]]]
"""By kind, what finds a container, unit or machine by its name. It raises NotFoundError, RefusedError or FailedError,
with a hint."""


async def resolve(text: str, runtimes: RuntimeTargets) -> Target:
    """Resolve a target. The caller finds out whether the namespace exists when it opens it.

    Raises InputError for an unknown form, and what `runtimes` raises.
    """
    kind, colon, rest = text.partition(":")
    if text.startswith("/"):
        return Target(text, text, nearest_name(netns_name_of(text)))
    if not colon or not rest:
        raise InputError(
            f"{text!r} is not a target",
            thing=text,
            hint="use netns:NAME, the path of a network namespace, or pid:PID",
        )
    match kind:
        case "netns":
            if "/" in rest or rest in {".", ".."}:
                raise InputError(
                    f"{rest!r} is not the name of a network namespace", thing=text, hint="see `ip netns list`"
                )
            return Target(text, str(NETNS_FOLDER / rest), nearest_name(rest))
        case "pid":
            pid = whole_number(rest, 1, MAX_PID)
            if pid is None:
                raise InputError(f"{rest[:80]!r} is not a process id", thing=text[:80], hint="use a number")
            return Target(text, netns_of_pid(pid), "")
        case _ if kind in runtimes:
            return await runtimes[kind](rest)
    hint = "use netns:NAME, a path, pid:PID, docker:NAME, podman:NAME, unit:NAME or machine:NAME"
    raise InputError(f"{kind!r} is not a kind of target", thing=text, hint=hint)


def netns_name_of(path: str) -> str:
    """Return the name of a named namespace, '' for any other path."""
    return Path(path).name if path and Path(path).parent == NETNS_FOLDER else ""


def named_netns(row: LocalEndpointRow) -> str:
    """Return the name of the named namespace whose resolv.conf is for this endpoint; '' if there is none, or if a
    runtime writes its containers' files itself."""
    return netns_name_of(row.netns.path) if row.origin is None and row.netns is not None else ""


def netns_of_pid(pid: int) -> str:
    """Return the path of a process's network namespace in /proc."""
    return f"/proc/{pid}/ns/net"


def identity_at(path: str) -> NetnsIdentity | None:
    """Return device and inode of the namespace at this path now; None when there is none."""
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def is_at_its_path(row: LocalEndpointRow) -> bool:
    """True while the path still leads to the namespace that the endpoint was attached to."""
    return row.netns is not None and identity_at(row.netns.path) == row.netns.identity
