from __future__ import annotations

import json

import pytest

from netagent.control.problem import error_from, problem_of
from netagent.errors import (
    FailedError,
    InputError,
    NetagentError,
    NotFoundError,
    RefusedError,
    UnreachableError,
)


@pytest.mark.parametrize("kind", [NotFoundError, InputError, UnreachableError, RefusedError, FailedError])
def test_an_error_travels_unchanged(kind: type[NetagentError]) -> None:
    error = kind("subnet is full", code="subnet-full", thing="app", hint="grow it")
    back = error_from(json.loads(json.dumps(problem_of(error))))
    assert type(back) is kind
    assert (str(back), back.code, back.thing, back.exit_status) == (
        "subnet is full; grow it",
        "subnet-full",
        "app",
        kind.exit_status,
    )


def test_the_document_has_the_members_of_rfc_9457() -> None:
    document = problem_of(RefusedError("no", thing="x"))
    assert document == {
        "type": "about:blank",
        "title": "Conflict",
        "status": 409,
        "detail": "no",
        "code": "refused",
        "exit_status": 4,
        "thing": "x",
        "hint": "",
    }


@pytest.mark.parametrize(
    "document", [{}, {"exit_status": [], "detail": 5}, {"exit_status": 77, "code": None}]
)
def test_any_document_is_some_error(document: dict[str, object]) -> None:
    error = error_from(document)
    assert error.exit_status == 5
    assert str(error)
