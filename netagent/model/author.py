"""Who or what causes what the present task does: a user, a token, a runtime, another host, the kernel or the agent.

The author belongs to the context of a task, as its deadline does, and the tasks that it starts inherit it. So a
use-case deep below a request knows who asked without an argument in every call between. Whatever is no request and
names nothing else runs for the agent itself. A task that a request starts and that outlives it must say so
(`act_as(AGENT)`), or it acts in the name of its starter for ever.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final


class AuthorKind(enum.StrEnum):
    """What kind of author it is; the word that JSON has."""

    USER = "user"
    """A program on this host that uses the API; the kernel vouches for the account."""
    TOKEN = "token"
    """A program that showed a token; `name` is the token's."""
    RUNTIME = "runtime"
    """`docker`, `podman`, `cni`, `systemd`."""
    GOSSIP = "gossip"
    """Another host, by what it published or did not answer; `name` is the host's."""
    KERNEL = "kernel"
    """The kernel reported it, whatever program caused it."""
    AGENT = "agent"
    """The agent of this host, by itself."""


@dataclass(frozen=True, slots=True)
class Author:
    """One author. `name` is one line of printable text, also where the name is foreign text: the caller cleans it."""

    kind: AuthorKind
    name: str
    uid: int | None = None
    """A user's."""
    program: str | None = None
    """What a user's program calls itself: a hint for people, no proof."""

    @property
    def account(self) -> str:
        """In one short name, as records keep it."""
        return f"token {self.name}" if self.kind is AuthorKind.TOKEN else self.name

    def __str__(self) -> str:
        match self.kind:
            case AuthorKind.USER:
                return f"{self.name} by {self.program}" if self.program else self.name
            case AuthorKind.TOKEN | AuthorKind.GOSSIP:
                return f"{'token' if self.kind is AuthorKind.TOKEN else 'host'} {self.name}"
            case _:
                return self.name


AGENT: Final = Author(AuthorKind.AGENT, "netagent")
KERNEL: Final = Author(AuthorKind.KERNEL, "kernel")

_current: ContextVar[Author] = ContextVar("author", default=AGENT)


def current_author() -> Author:
    """Return the author of what the present task does."""
    return _current.get()


def act_as(author: Author) -> None:
    """From here on the present task, and those it starts, act for `author`."""
    _current.set(author)


@contextmanager
def acting_as(author: Author) -> Iterator[None]:
    """Act for `author` within a block."""
    token = _current.set(author)
    try:
        yield
    finally:
        _current.reset(token)
