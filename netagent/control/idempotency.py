"""Answers of changes that a client may ask for again: by the header `Idempotency-Key`, each is made once.

A client that got no answer does not know whether the change was made. It asks again with the same key: if the first
request has succeeded, its answer comes again; if it is under way, both wait for it; if it failed, nothing was
changed, and it is tried. A key belongs to its asker, so no other one can read the answer by it. Keys live in memory:
an agent that has started anew knows none, and the commands say for themselves what was done already.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

import trio

from netagent.errors import InputError, RefusedError
from netagent.interface.command import Command

KEPT_S: Final = 600.0
"""A client that retries does so within seconds."""
MAX_KEYS: Final = 256
"""Bound of keys of all askers; beyond it: the oldest answer is forgotten."""
MAX_KEYS_PER_ASKER: Final = 64
"""Bound of keys of one asker; beyond it: its oldest answer is forgotten, and refused if none is complete."""
MAX_ANSWER_BYTES: Final = 64 * 1024
"""Bound of an answer that is kept; beyond it: its key is forgotten at once."""
MAX_KEY_CHARS: Final = 128


@dataclass(slots=True)
class Answered:
    """What was answered."""

    status: int
    body: bytes


@dataclass(slots=True)
class _Entry:
    fingerprint: bytes
    done: trio.Event = field(default_factory=trio.Event)
    answer: Answered | None = None
    """None until `done`, and after a failure."""
    kept_until: float = 0.0


class IdempotentAnswers:
    """The answers of one agent."""

    def __init__(self) -> None:
        self._entries: OrderedDict[tuple[str, str], _Entry] = OrderedDict()

    async def once(
        self, asker: str, key: str, request: Command[Any], act: Callable[[], Awaitable[Answered]]
    ) -> Answered:
        """Return the answer of `act`, or the one that the same asker got for the same key and request.

        Raises InputError if the key was used for another request, and what `act` raises."""
        fingerprint, name = _fingerprint(request), (asker, key)
        while True:
            self._forget_old()
            entry = self._entries.get(name)
            if entry is None:
                return await self._act(name, fingerprint, act)
            if entry.fingerprint != fingerprint:
                error = InputError(
                    "the Idempotency-Key was used for another request",
                    code="key-reused",
                    thing="Idempotency-Key",
                    hint="take a new key for each change",
                )
                error.http_status = 422
                raise error
            if entry.answer is not None:
                return entry.answer
            await entry.done.wait()
            if entry.answer is not None:
                return entry.answer

    async def _act(
        self, name: tuple[str, str], fingerprint: bytes, act: Callable[[], Awaitable[Answered]]
    ) -> Answered:
        self._make_room(name[0])
        entry = self._entries[name] = _Entry(fingerprint)
        try:
            answer = await act()
            if len(answer.body) <= MAX_ANSWER_BYTES:
                entry.answer = answer
                entry.kept_until = trio.current_time() + KEPT_S
            return answer
        finally:
            if entry.answer is None:
                del self._entries[name]
            else:
                self._entries.move_to_end(name)  # in the order in which they end
            entry.done.set()

    def _forget_old(self) -> None:
        now = trio.current_time()
        for name in [n for n, one in self._entries.items() if one.answer and one.kept_until <= now]:
            del self._entries[name]

    def _make_room(self, asker: str) -> None:
        own = [name for name in self._entries if name[0] == asker]
        for names, most in ((own, MAX_KEYS_PER_ASKER), (list(self._entries), MAX_KEYS)):
            if len(names) < most:
                continue
            oldest = next((name for name in names if self._entries[name].answer is not None), None)
            if oldest is None:
                raise RefusedError(
                    f"{len(names)} changes with an Idempotency-Key are under way",
                    code="too-many",
                    thing="Idempotency-Key",
                    hint="wait until some have been answered",
                )
            del self._entries[oldest]


def key_untrusted(text: str) -> str:
    """Return a valid key. Raises InputError."""
    if not 0 < len(text) <= MAX_KEY_CHARS or not text.isascii() or not text.isprintable():
        raise InputError(
            f"the Idempotency-Key is not a text of 1 to {MAX_KEY_CHARS} printable ASCII characters",
            thing="Idempotency-Key",
            hint="send a random one, such as a UUID",
        )
    return text


def _fingerprint(request: Command[Any]) -> bytes:
    text = json.dumps([type(request).__qualname__, vars(request)], sort_keys=True, default=vars)
    return hashlib.sha256(text.encode()).digest()
