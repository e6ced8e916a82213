"""Which warnings of `status` began and which are over, between two looks. Pure.

Many warnings contain a figure that changes from look to look (`12 of its 13 addresses`, `for 40 s`), or what a check
last said. Such a warning is the same one: two are compared without these. One that is missing from a single look is
not over yet: several are made of answers that may come late.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from netagent.events.event import MAX_TEXT_CHARS, one_line
from netagent.events.kinds import EventKind, EventLevel
from netagent.events.sources.view_changes import News
from netagent.model.author import AGENT

MAX_WARNINGS: Final = 500
"""Bound of warnings that are remembered; beyond it: further ones are not told. `status` has a handful of each."""
MISSED_LOOKS: Final = 2
"""A warning is over when it is missing from so many looks in a row."""
OVER: Final = "over: "
_OF_CHECKS: Final = frozenset({"all-failing", "external-down"})
"""Codes of warnings that say after a colon what checks last said: that they fail in another way is no news."""

_FIGURE: Final = re.compile(r"(?<![\w.:/-])\d[\d,]*(?:\.\d+)?(?![\w:/-]|\.\d)")
"""A number that stands alone: none of a name, an address, a subnet or a port."""

Key = tuple[str, str]


class WarningChanges:
    """What the last looks have found."""

    def __init__(self) -> None:
        self._texts: dict[Key, str] = {}
        self._missed: dict[Key, int] = {}

    def restore(self, told: Iterable[tuple[str, str]]) -> None:
        """Take up what an earlier run told, (code, text) in order: what began and is not over is not told again."""
        for code, text in told:
            key = _key(code, text.removeprefix(OVER))
            if text.startswith(OVER):
                self._texts.pop(key, None)
            elif len(self._texts) < MAX_WARNINGS:
                self._texts[key] = text

    def look(self, warnings: Iterable[tuple[str, str]]) -> list[News]:
        """Return what began and what is over, given all (code, text) of now."""
        # Cut as events are, so that a restored text is the same one.
        cut = [(code, one_line(text, MAX_TEXT_CHARS - len(OVER))) for code, text in warnings]
        now = {_key(code, text): text for code, text in cut}
        found = []
        for key, text in now.items():
            self._missed.pop(key, None)
            if key not in self._texts and len(self._texts) < MAX_WARNINGS:
                self._texts[key] = text
                found.append(News(EventKind.WARNING, key[0], text, AGENT, EventLevel.WARNING))
        for key in [one for one in self._texts if one not in now]:
            self._missed[key] = self._missed.get(key, 0) + 1
            if self._missed[key] >= MISSED_LOOKS:
                del self._missed[key]
                text = self._texts.pop(key)
                found.append(News(EventKind.WARNING, key[0], OVER + text, AGENT))
        return found


def _key(code: str, text: str) -> Key:
    same = text.partition(": ")[0] if code in _OF_CHECKS else text
    return code, _FIGURE.sub("#", same)
