"""One object that a record makes, and whether it is there: the lines of `inspect --why`. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from netagent.doctor.checks.kernel_drift import State


@dataclass(frozen=True, slots=True)
class ObjectStatus:
    """An object in the kernel, in a container or in the answers of a resolver."""

    kind: str
    """`device`, `neighbour`, `interface`, `name`, …"""
    thing: str
    """The object as one would type it."""
    state: State
    reason: str = ""
    """Why it is not needed, what it is instead, why it is not known."""
    fix: str = ""
    """What does it by hand."""

    @property
    def is_wrong(self) -> bool:
        """True for what should be otherwise."""
        return self.state in {State.MISSING, State.ALTERED, State.LEFT_OVER}
