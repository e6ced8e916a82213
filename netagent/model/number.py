"""Whole numbers in text from outside. Pure.

Python converts at most 4,300 digits; beyond, `int()` and `str()` raise ValueError. So this parser checks the length
first, and no code calculates with a number from outside before its bounds have been checked.
"""

from __future__ import annotations

MAX_DIGITS = 20
"""Most digits that are read, including leading zeros."""

MAX_PID = (1 << 31) - 1
"""Maximum of the type pid_t; the kernel's process ids are at most 2**22."""


def whole_number(text: str, low: int, high: int) -> int | None:
    """Return the number that ASCII digits represent, within [low, high]; None for any other text."""
    if len(text) > MAX_DIGITS or not text.isascii() or not text.isdigit():
        return None
    found = int(text)
    return found if low <= found <= high else None
