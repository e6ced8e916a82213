"""One object that a record makes, and how it compares with the record: the lines of `inspect --why`. Pure."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class State(enum.Enum):
    """How an object in the kernel compares with the records."""

    PRESENT = "present"
    MISSING = "missing"
    ALTERED = "altered"
    LEFT_OVER = "left over"
    NOT_NEEDED = "not needed"
    NOT_KNOWN = "not known"


@dataclass(frozen=True, slots=True)
class ObjectStatus:
    """An object in the kernel, in a container or in the answers of a resolver."""

    kind: str
    """`device`, `neighbour`, `interface`, `name`, …"""
    thing: str
    """The object in the words of a command line."""
    state: State
    reason: str = ""
    """Why it is not needed, what is there instead, or why its state is not known."""
    fix: str = ""
    """The command that repairs it by hand."""

    @property
    def is_wrong(self) -> bool:
        """True for an object that differs from what it should be."""
        return self.state in {State.MISSING, State.ALTERED, State.LEFT_OVER}
