"""Roles: what an asker of the agent's API may do. A higher role includes the lower ones."""

from __future__ import annotations

import enum


class Role(enum.IntEnum):
    """In the order of what they allow."""

    READ = 1
    """See what the agent knows. Changes nothing, and no container or host notices."""
    ATTACH = 2
    """Attach and detach containers, and act on what is attached."""
    ADMIN = 3
    """Everything that a token can allow."""
    SOCKET = 4
    """Also what makes and revokes tokens: only for who may open the agent's socket. A token that could make tokens
    would outlive its revocation."""

    @property
    def word(self) -> str:
        """As users type it."""
        return self.name.lower()
