"""The places for answers without end: so many in all, and so many for each asker.

    with contextlib.ExitStack() as held:
        held.enter_context(places.taken(asker))    taken from here on: requests at the same time get no more
        ...                                        what may fail: the place is given back
        return WatchResponse(run, held.pop_all())  which gives it back at its end

One token, or one program that runs wild, must not leave nothing to the others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from netagent.errors import RefusedError


class Places:
    """At most `total`, of which each asker gets at most `each`."""

    def __init__(self, total: int, each: int, what: str) -> None:
        """`what` holds them, as a refusal says it: `clients are already watching this agent`."""
        self._total = total
        self._each = each
        self._what = what
        self._held: Counter[str] = Counter()

    @contextmanager
    def taken(self, asker: str) -> Iterator[None]:
        """Hold a place within a block. Raises RefusedError."""
        held = self._held.get(asker, 0)
        if held >= self._each or self._held.total() >= self._total:
            cause = f"{self._total} {self._what}"
            if held >= self._each:
                cause = f"{self._each} {self._what} with the same token or account"
            raise RefusedError(cause, code="too-many-watchers", hint="stop one of them")
        self._held[asker] += 1
        try:
            yield
        finally:
            self._held[asker] -= 1
            if not self._held[asker]:
                del self._held[asker]
