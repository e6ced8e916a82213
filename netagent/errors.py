"""Errors that reach users: one sentence that names the object, the cause and what to do, and an exit status.

Every layer raises them. The HTTP API turns them into RFC 9457 problem documents, and the command line prints the
sentence and exits with the status.
"""

from __future__ import annotations


class NetagentError(Exception):
    """Base class. `code` is a stable word for scripts, `thing` the object concerned, `hint` what to do."""

    exit_status = 5
    http_status = 500
    code = "failed"

    def __init__(self, message: str, *, code: str | None = None, thing: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.code = code or type(self).code
        self.thing = thing
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


class NotFoundError(NetagentError):
    """The answer is no: not found, drift found, unhealthy."""

    exit_status = 1
    http_status = 404
    code = "not-found"


class InputError(NetagentError):
    """The caller's input is wrong: a bad name, an unknown option, a malformed address."""

    exit_status = 2
    http_status = 400
    code = "bad-input"


class UnreachableError(NetagentError):
    """The agent cannot be reached."""

    exit_status = 3
    http_status = 503
    code = "agent-unreachable"


class RefusedError(NetagentError):
    """A rule forbids it: address in use, network in use, not permitted. Nothing was changed."""

    exit_status = 4
    http_status = 409
    code = "refused"


class ForbiddenError(RefusedError):
    """The asker's role does not allow it. Nothing was changed."""

    http_status = 403
    code = "not-permitted"


class UnauthorizedError(RefusedError):
    """The asker has shown no valid token. Nothing was changed."""

    http_status = 401
    code = "no-valid-token"


class FailedError(NetagentError):
    """Something failed or timed out. Partial changes were undone."""
