"""What the lab raises."""

from __future__ import annotations


class LabError(Exception):
    """Something in the lab cannot be done. The text is one sentence for a person: thing, cause, way out.

    `exit_status` is what `lab` exits with: 2 wrong usage, 4 refused as things stand, 5 failed or timed out, or the
    status of the `netagent` command that said no.
    """

    def __init__(self, message: str, *, exit_status: int = 5) -> None:
        super().__init__(message)
        self.exit_status = exit_status
