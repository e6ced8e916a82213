"""One object that a record makes, and whether it is present: the lines of `inspect --why`. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from netagent.doctor.checks.kernel_drift import State


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
