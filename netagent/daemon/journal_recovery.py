"""Journal recovery: a start without a journal must not remove containers that the lost journal knew.

The key ring makes this host a member, so the agent would begin with an empty journal, find interfaces of endpoints
that it does not know, and remove them as left-overs. Nothing can tell them from containers at work, so the agent
refuses to start until an operator decides: fail static.

Without a key ring the start is different: a host that enters a cluster by `init` or `join` starts from nothing.
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
    """RefusedError when there is no journal, or an empty file, and interfaces of endpoints exist. Creates nothing: at
    the next start a new journal would pass for the lost one."""
    if _has_content(journal_file):
        return
    names = sorted(await interfaces())
    if names:
        shown = ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
        raise RefusedError(
            f"the journal {journal_file} is lost, and interfaces of containers that it knew still exist "
            f"({shown}): starting without it would remove them",
            code="journal-lost",
            thing=str(journal_file),
            hint="restore it from a backup; or give up these containers: remove their interfaces with "
            f"`ip link delete`, reboot the host, or move {keyring_file} away and join again",
        )
