"""How much a call does: the instructions of the interpreter that it runs, which no other program on the machine
lengthens, and with which no parser's own counting has anything to do."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn


class TooMuchWorkError(Exception):
    """The call was ended."""


def instructions_of(function: Callable[..., Any], *arguments: Any, most: int) -> int:
    """Count the instructions that a call takes. Raises TooMuchWorkError beyond `most`, and what the call raises."""
    count = 0

    def trace(frame: FrameType, event: str, _argument: object) -> Callable[..., Any]:
        nonlocal count
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        count += event == "opcode"
        if count > most:
            too_much()
        return trace

    def too_much() -> NoReturn:
        raise TooMuchWorkError(f"more than {most:,} instructions")

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function(*arguments)
    finally:
        sys.settrace(before)
    return count
