"""Whole numbers in text that others wrote. Pure.

Python converts at most 4,300 digits, and raises ValueError in `int()` and in `str()` beyond. So the length is looked
at first, and no number that came from outside is reckoned with before its bounds are.
"""

from __future__ import annotations

MAX_DIGITS = 20
"""Leading zeros among them."""

MAX_PID = (1 << 31) - 1
"""Of the type pid_t; the kernel gives no greater than 2**22."""


def whole_number(text: str, low: int, high: int) -> int | None:
    """The number that ASCII digits say, within [low, high]; None for any other text."""
    if len(text) > MAX_DIGITS or not text.isascii() or not text.isdigit():
        return None
    found = int(text)
    return found if low <= found <= high else None
