"""A sandbox: one network namespace with endpoints of netagent in it.

All programs in one namespace share one resolver, one search list and one set of link aliases, so these belong to the
sandbox and not to an endpoint. A sandbox is local to its host and never replicated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NewType

from netagent.model.ids import NetworkId
from netagent.model.records import Link

SandboxId = NewType("SandboxId", str)
"""`<first 8 hex digits of the boot id>-<inode of the namespace>`. The kernel reuses an inode number only after the
namespace is gone, and the boot id differs after a reboot; together they name one namespace while it exists."""


def sandbox_id(boot_id: str, inode: int) -> SandboxId:
    """Return the id of the namespace with this inode in this boot (`/proc/sys/kernel/random/boot_id`)."""
    return SandboxId(f"{boot_id.replace('-', '')[:8]}-{inode}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sandbox:
    """What the resolver must know of a namespace to answer queries from it."""

    sandbox_id: SandboxId
    networks: tuple[NetworkId, ...] = ()
    """In attach order: an unqualified name resolves in the first of these networks that has it."""
    links: tuple[Link, ...] = ()
    """In the order given; of two with the same alias the first counts."""
    forward: bool = True
    """True if names outside the cluster are forwarded to the host's name servers. False when all its networks are
    internal."""
