"""Async tests under virtual time: a second of sleep costs nothing, and a timeout is exact."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Awaitable, Callable, Iterator
from types import SimpleNamespace
from typing import ParamSpec

import trio
import trio.testing

P = ParamSpec("P")

_at_end = SimpleNamespace(stack=None)


def at_end(close: Callable[[], object]) -> None:
    """Have `close` called when the test that runs is over."""
    _at_end.stack.callback(close)


@contextlib.contextmanager
def ending() -> Iterator[None]:
    """What `at_end` was given is done when the block ends."""
    with contextlib.ExitStack() as _at_end.stack:
        yield


def virtual(function: Callable[P, Awaitable[None]]) -> Callable[P, None]:
    """Run an async test function; its parameters are fixtures as usual."""

    @functools.wraps(function)
    def test(*args: P.args, **kwargs: P.kwargs) -> None:
        clock = trio.testing.MockClock(autojump_threshold=0)
        with ending():
            trio.run(functools.partial(function, *args, **kwargs), clock=clock)

    return test
