"""The one loss that a start must not take for a clean slate: no journal, while containers live by what it said.

The key ring makes this host a member, so the agent would begin with an empty journal, find interfaces of endpoints
that it has never heard of, and remove them as left-overs. Nothing can tell them from containers at work, so the agent
stays away until somebody decides: fail static.

Without a key ring the start is another: who enters a cluster by `init` or `join` wants a clean slate.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from contextlib import closing
from pathlib import Path

from netagent.datapath.endpoint.attach import Attacher
from netagent.datapath.netlink.route_socket import Netlink, open_socket
from netagent.errors import RefusedError

_SHOWN = 3


async def _endpoint_interfaces() -> Collection[str]:
    with closing(Netlink(open_socket())) as netlink:
        return (await Attacher(netlink).list_endpoint_devices()).values()


def _has_content(file: Path) -> bool:
    """SQLite writes the first page before any record."""
    return file.exists() and file.stat().st_size > 0


async def require_journal(
    journal_file: Path,
    keyring_file: Path,
    interfaces: Callable[[], Awaitable[Collection[str]]] = _endpoint_interfaces,
) -> None:
    """RefusedError when there is no journal, or an empty file, and interfaces of endpoints exist. Makes nothing: a
    journal that were there at the next start would pass for the lost one."""
    if _has_content(journal_file):
        return
    names = sorted(await interfaces())
    if names:
        shown = ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
        raise RefusedError(
            f"the journal {journal_file} is lost, and interfaces of containers that it knew are still here "
            f"({shown}): starting without it would remove them",
            code="journal-lost",
            thing=str(journal_file),
            hint="restore it from a backup; or give these containers up: remove their interfaces with "
            f"`ip link delete`, restart the host, or move {keyring_file} away and join anew",
        )
