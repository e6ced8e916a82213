"""A container's resolv.conf, and the host's own.

`ip netns exec NAME` and the lab's containers bind `/etc/netns/NAME/resolv.conf` over the host's. The agent writes it
if there is none, marks it, and changes only files with the mark.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

NETNS_ETC = Path("/etc/netns")
RESOLVER_ADDRESS = "127.0.0.11"
OPTIONS = ("ndots:1", "edns0")
MARK = "# written by netagent"
MAX_SEARCH_DOMAINS = 16
_UNFINISHED = ".resolv.conf.netagent"


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
        f"{path} is not netagent's and names another server first: programs there cannot resolve cluster names",
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
