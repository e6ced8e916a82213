"""Conversion of errors to RFC 9457 problem documents and back.

The agent's sentence, code and exit status reach the user of the command line unchanged: `problem_of` on the agent's
side, `error_from` on the other. `type` is `about:blank` (RFC 9457 section 4.2.1: no more than the HTTP status);
scripts use `code`.
"""

from __future__ import annotations

from collections.abc import Mapping

from netagent.errors import (
    FailedError,
    InputError,
    NetagentError,
    NotFoundError,
    RefusedError,
    UnreachableError,
)

MEDIA_TYPE = "application/problem+json"

_BY_EXIT_STATUS: dict[int, type[NetagentError]] = {
    kind.exit_status: kind
    for kind in (NotFoundError, InputError, UnreachableError, RefusedError, FailedError)
}

_TITLES = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    409: "Conflict",
    413: "Content Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


def problem_of(error: NetagentError, *, status: int | None = None) -> dict[str, object]:
    """Return the document: `type title status detail code exit_status thing hint`. `status` overrides the error's."""
    status = status or error.http_status
    return {
        "type": "about:blank",
        "title": _TITLES.get(status, "Error"),
        "status": status,
        "detail": error.message,
        "code": error.code,
        "exit_status": error.exit_status,
        "thing": error.thing,
        "hint": error.hint,
    }


def error_from(problem: Mapping[str, object]) -> NetagentError:
    """Return the error of a document; missing members get the values of an unexpected failure."""
    number = problem.get("exit_status")
    kind = _BY_EXIT_STATUS.get(number, FailedError) if isinstance(number, int) else FailedError

    def text(member: str) -> str:
        value = problem.get(member)
        return value if isinstance(value, str) else ""

    message = text("detail") or text("title") or "the agent reported a failure without a message"
    return kind(message, code=text("code") or None, thing=text("thing"), hint=text("hint"))


def known_error(error: BaseException) -> NetagentError | None:
    """Return the error if it is a NetagentError, or the one that a nursery has wrapped; else None."""
    if isinstance(error, NetagentError):
        return error
    if isinstance(error, BaseExceptionGroup):
        found = [known_error(part) for part in error.exceptions]
        return found[0] if all(found) else None
    return None
