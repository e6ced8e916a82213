"""A sandbox: one network namespace with endpoints of netagent in it.

All programs in one namespace share one resolver, one search list and one set of link aliases, so these belong to the
sandbox and not to an endpoint. A sandbox is local to its host and never replicated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NewType, TypeAlias

from netagent.model.ids import NetworkId
from netagent.model.records import Link

SandboxId = NewType("SandboxId", str)
"""`<first 8 hex digits of the boot id>-<inode of the namespace>`. The kernel reuses an inode number only after the
namespace is gone, and the boot id differs after a reboot; together they name one namespace while it exists."""


NetnsIdentity: TypeAlias = tuple[int, int]
"""Device and inode of a namespace's file."""


@dataclass(frozen=True, slots=True)
class Netns:
    """A network namespace with an endpoint in it. Path and identity are from when the endpoint was attached: the path
    may lead to another namespace since."""

    path: str
    identity: NetnsIdentity
    boot_id: str
    """The boot (`/proc/sys/kernel/random/boot_id`) in which the identity holds."""
    behind_runtime: bool = False
    """The runtime's own resolver holds 127.0.0.11 there (netagent.endpoints.targets.Target)."""

    def is_same_as(self, other: Netns | None) -> bool:
        """True if both are one namespace, even under another path."""
        return other is not None and (self.identity, self.boot_id) == (other.identity, other.boot_id)

    @property
    def sandbox_id(self) -> SandboxId:
        """The sandbox that the namespace is."""
        return SandboxId(f"{self.boot_id.replace('-', '')[:8]}-{self.identity[1]}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sandbox:
    """What the resolver must know of a namespace to answer queries from it."""

    sandbox_id: SandboxId
    networks: tuple[NetworkId, ...] = ()
    """In attach order: an unqualified name resolves in the first of these networks that has it."""
    links: tuple[Link, ...] = ()
    """In the order given; of two with the same alias the first counts."""
    group: str | None = None
    """The group whose names its programs find first."""
    forward: bool = True
    """True if names outside the cluster are forwarded to the host's name servers. False when all its networks are
    internal."""
    translates: frozenset[NetworkId] = frozenset()
    """The networks of whose services the kernel leads connections to their own addresses on to replicas, in this
    namespace. In the others a service's name is answered with its replicas."""
