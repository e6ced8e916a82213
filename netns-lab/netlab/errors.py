"""The error that the lab raises."""

from __future__ import annotations


class LabError(Exception):
    """The lab cannot do something. The text is one sentence for a person: thing, cause, remedy.

    `exit_status` is the status of `lab`: 2 wrong usage, 4 refused in the present state, 5 failed or timed out, or the
    status of the `netagent` command that failed.
    """

    def __init__(self, message: str, *, exit_status: int = 5) -> None:
        super().__init__(message)
        self.exit_status = exit_status
