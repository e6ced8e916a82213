"""The kinds of events: the closed list that `--kind` takes.

A kind is what an operator asks for, not what the code did: many lines of log have one kind, and most have none.
"""

from __future__ import annotations

import enum


class EventKind(enum.StrEnum):
    """What happened. The value is the word that users type and that JSON has."""

    ATTACH = "attach"
    """An endpoint came."""
    DETACH = "detach"
    """An endpoint went, by request or because its container did."""
    DRAIN = "drain"
    """Names of an endpoint or of a host were withdrawn, or given back."""
    HEALTH = "health"
    """A container's or an outside service's checks say something else now."""
    MEMBER = "member"
    """A host came, left, fell silent or answers again; this one included."""
    EVICT = "evict"
    """The cluster evicted a host."""
    FENCE = "fence"
    """An endpoint of this host lost its address, or has it again."""
    NETWORK = "network"
    """A network was made, changed or removed."""
    SERVICE = "service"
    """A service that is no container, a service's own address or a name was added, changed or removed."""
    ENCRYPTION = "encryption"
    """The cluster begins to encrypt, or ends it; this host's packets do; a path lost its tunnel, or has it again."""
    CONFLICT = "conflict"
    """Two records began, or ceased, to contradict each other."""
    REPAIR = "repair"
    """The agent repaired what another program changed."""
    RESOLVER = "resolver"
    """The process that answers DNS started, ended or was replaced."""
    WARNING = "warning"
    """A warning of `status` began or ended."""
    REFUSAL = "refusal"
    """A request, a packet or a record was refused."""
    AGENT = "agent"
    """The agent started, stopped or read its configuration."""
    REQUEST = "request"
    """Any other change that a request made."""


class EventLevel(enum.StrEnum):
    """How much it matters."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"
