"""A sandbox: one network namespace that has endpoints of ours in it.

Everything in one namespace shares one resolver, one search list and one set of link aliases, so these belong to the
sandbox and not to an endpoint. A sandbox is local to its host and never replicated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NewType

from netagent.model.ids import NetworkId
from netagent.model.records import Link

SandboxId = NewType("SandboxId", str)
"""`<first 8 hex digits of the boot id>-<inode of the namespace>`. An inode number is used again only after the
namespace is gone, and the boot id tells reboots apart; together they name one namespace for as long as it lives."""


def sandbox_id(boot_id: str, inode: int) -> SandboxId:
    """The id of the namespace with this inode, under this boot (`/proc/sys/kernel/random/boot_id`)."""
    return SandboxId(f"{boot_id.replace('-', '')[:8]}-{inode}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sandbox:
    """What the resolver must know of a namespace to answer those inside it."""

    sandbox_id: SandboxId
    networks: tuple[NetworkId, ...] = ()
    """In attach order: a bare name means the first of these networks that has it."""
    links: tuple[Link, ...] = ()
    """In the order given; of two with one alias the first counts."""
    forward: bool = True
    """Whether names that are not ours go to the host's upstream servers. False when all its networks are internal."""
