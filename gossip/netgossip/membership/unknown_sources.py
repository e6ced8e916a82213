"""Who spoke to us without belonging to the cluster: counted always, told the application once a minute a source."""

from __future__ import annotations

from typing import Final

PAUSE_S: Final = 60.0
SOURCES_LIMIT: Final = 1024
"""Sources are unproven addresses: whoever forges them gets counted and no more once the table is full."""


class UnknownSources:
    """Remembers which source was told of when."""

    def __init__(self) -> None:
        self._told_at: dict[str, float] = {}

    def is_news(self, host: str, now: float) -> bool:
        """True when the application should hear of `host` now."""
        if (told_at := self._told_at.get(host)) is not None and now < told_at + PAUSE_S:
            return False
        if host not in self._told_at and len(self._told_at) >= SOURCES_LIMIT:
            self._told_at = {h: at for h, at in self._told_at.items() if now < at + PAUSE_S}
            if len(self._told_at) >= SOURCES_LIMIT:
                return False
        self._told_at[host] = now
        return True
