"""A container's resolv.conf, and the host's own.

`ip netns exec NAME` and the lab's containers bind `/etc/netns/NAME/resolv.conf` over the host's. The agent writes it
if there is none, marks it, and changes only files with the mark.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path

from netagent.endpoints import targets
from netagent.endpoints.targets import identity_at, named_netns
from netagent.journal.rows import LocalEndpointRow
from netagent.model.ids import EndpointId
from netagent.registry.state_store import StateStore

NETNS_ETC = Path("/etc/netns")
RESOLVER_ADDRESS = "127.0.0.11"
OPTIONS = ("ndots:1", "edns0")
MARK = "# written by netagent"
MAX_SEARCH_DOMAINS = 16
_UNFINISHED = ".resolv.conf.netagent"

logger = logging.getLogger("netagent.endpoints.resolv_conf")


class ResolvConfs:
    """The files of this host's named namespaces. A runtime writes those of its containers itself."""

    def __init__(self, live: StateStore, domain: str, boot_id: str) -> None:
        self._live = live
        self._domain = domain
        self._boot_id = boot_id

    def refresh(self, row: LocalEndpointRow, *, gone: bool = False) -> None:
        """Rewrite the file of the row's namespace for the networks that it is in; `gone`: without the endpoint.

        The file belongs to a name, and so to the namespace that has the name now. That may be another one than the
        endpoint was attached to: then the endpoint does not count, and its end does not change the file that the
        later endpoint got."""
        netns_name = named_netns(row)
        if not netns_name:
            return
        networks = self._networks_in(netns_name, except_for=row.endpoint_id if gone else None)
        try:
            if networks:
                write(netns_name, render(networks, self._domain, host_search()))
            else:
                remove(netns_name)
        except OSError as error:
            logger.warning("cannot write the resolv.conf of namespace %s: %s", netns_name, error)

    def _networks_in(self, netns_name: str, *, except_for: EndpointId | None) -> list[str]:
        """Return the networks of the namespace that has the name now, if an endpoint was attached by it."""
        mates = [
            row
            for row in self._live.rows.in_namespace(identity_at(str(targets.NETNS_FOLDER / netns_name)))
            # An inode number means nothing in another boot.
            if row.netns and row.netns.boot_id == self._boot_id and row.endpoint_id != except_for
        ]
        if not any(named_netns(mate) == netns_name for mate in mates):
            return []
        networks = self._live.view.networks
        return [networks[mate.network_id].unique_name for mate in mates if mate.network_id in networks]

    def remove_stale(self) -> None:
        """Remove the files of names that no endpoint of this host uses: the journal was lost, or restored from a
        backup."""
        used = {named_netns(row) for row in self._live.rows.values()}
        for netns_name in written_names():
            if netns_name not in used:
                logger.info("removing the resolv.conf of %s, which no endpoint uses", netns_name)
                remove(netns_name)


def render(network_names: Sequence[str], domain: str, host_search: Sequence[str]) -> str:
    """Return the text, with one nameserver only, because musl asks all at once and takes the first answer."""
    words = " ".join(search(network_names, domain, host_search))
    return f"{MARK}\nnameserver {RESOLVER_ADDRESS}\nsearch {words}\noptions {' '.join(OPTIONS)}\n"


def search(network_names: Sequence[str], domain: str, host_search: Sequence[str]) -> tuple[str, ...]:
    """Return the search list of a container in these networks, in attach order."""
    own = [f"{name}.{domain}" for name in network_names] + [domain]
    return tuple(dict.fromkeys([*own, *host_search]))[:MAX_SEARCH_DOMAINS]


def host_search(path: Path = Path("/etc/resolv.conf")) -> tuple[str, ...]:
    """Return the host's own search list; the last line counts, as in resolv.conf(5)."""
    found: tuple[str, ...] = ()
    with contextlib.suppress(OSError, UnicodeDecodeError):
        for line in path.read_text().splitlines():
            words = line.split()
            if words and words[0] in {"search", "domain"}:
                found = tuple(word for word in words[1:] if word != ".")
    return found


def write(netns_name: str, text: str) -> None:
    """Write the file if it is missing or has the mark; the caller reports an OSError.

    The file has the mark at every moment: if the agent is killed here, or the disk is full, it must not leave a file
    that it would later take for another program's.
    """
    path = NETNS_ETC / netns_name / "resolv.conf"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(_UNFINISHED)
        new.write_text(text)
        new.replace(path)
    elif _is_ours(path):
        # Write in place, not by rename: a running container has this inode mounted.
        with path.open("r+b", buffering=0) as file:
            file.write(text.encode())
            file.truncate()


def shortcoming(netns_name: str) -> tuple[str, str] | None:
    """Return why programs of a named namespace do not use the agent's resolver, and the cure: another program's file
    is there."""
    path = NETNS_ETC / netns_name / "resolv.conf"
    try:
        lines = [line.split() for line in path.read_text().splitlines()]
    except (OSError, UnicodeDecodeError):
        return None
    servers = [words[1] for words in lines if len(words) > 1 and words[0] == "nameserver"]
    if servers[:1] == [RESOLVER_ADDRESS]:
        return None
    return (
        f"{path} names another server first: programs there cannot resolve cluster names",
        f"put `nameserver {RESOLVER_ADDRESS}` first in it; or remove it, detach, and attach again",
    )


def remove(netns_name: str) -> None:
    """Remove the agent's file, and its folder when nothing else is in it."""
    path = NETNS_ETC / netns_name / "resolv.conf"
    unfinished = path.with_name(_UNFINISHED)
    with contextlib.suppress(OSError):
        is_ours = _is_ours(path) or unfinished.exists()
        unfinished.unlink(missing_ok=True)
        if _is_ours(path):
            path.unlink()
        if is_ours:
            path.parent.rmdir()


def written_names() -> list[str]:
    """Return the named namespaces that have a file of the agent, complete or not."""
    try:
        finished = {path.parent.name for path in NETNS_ETC.glob("*/resolv.conf") if _is_ours(path)}
        return sorted(finished.union(path.parent.name for path in NETNS_ETC.glob(f"*/{_UNFINISHED}")))
    except OSError:
        return []


def _is_ours(path: Path) -> bool:
    try:
        with path.open() as file:
            return file.readline().rstrip("\n") == MARK
    except (OSError, UnicodeDecodeError):
        return False
