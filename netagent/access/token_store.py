"""Keeps this host's tokens on disk, ends them when their time is over, and tells streams that their token ended.

A token works once it is on disk, and stops to work before its row is gone from there. So a crash between the two
loses a token that its maker never saw. It never brings back one whose revocation was answered.
"""

from __future__ import annotations

import json
import logging
import os
import time
from pathlib import Path
from typing import Final

import trio

from netagent.access.tokens import (
    ID_BYTES,
    SECRET_BYTES,
    Token,
    TokenNetwork,
    Tokens,
    tokens_json,
    tokens_of_json,
)
from netagent.errors import FailedError, NetagentError
from netagent.interface.role import Role
from netagent.periodic_task import PeriodicTask
from netagent.state_dir import write_private

EXPIRY_PAUSE_S: Final = 10.0
"""An expired token is refused at once; within this time its streams end and it is dropped."""
MAX_FILE_BYTES: Final = 4 * 1024 * 1024
"""Bound of the file; beyond it: taken for damaged. MAX_TOKENS rows with all networks take a tenth."""

_log = logging.getLogger(__name__)


class TokenStore:
    """The tokens of this host, of one agent."""

    def __init__(self, path: Path) -> None:
        """Read the file. A damaged one is left as it is: then no token works, and none can be made."""
        self._path = path
        self.trouble = ""
        """Why no token works, or some do not; empty: all do."""
        self._is_damaged = False
        self._others: list[object] = []
        self._tokens = Tokens(self._read())
        self._writing = trio.Lock()
        self._expiring = PeriodicTask(EXPIRY_PAUSE_S)
        self._ended: dict[str, trio.Event] = {}
        """Of tokens that a stream waits for."""
        self._used_at_s: dict[str, int] = {}

    # -- reading -----------------------------------------------------------------------------------------------

    def every(self) -> list[Token]:
        """Return the tokens that are valid."""
        now_s = time.time()
        return [one for one in self._tokens.every() if not one.has_expired(now_s)]

    def used_at_s(self, token: Token) -> int | None:
        """Return when it was last shown, in Unix time; None: not since the agent started."""
        return self._used_at_s.get(token.token_id)

    def proven_untrusted(self, text: str) -> Token:
        """Return the token of which this is the text. Raises UnauthorizedError."""
        now_s = time.time()
        token = self._tokens.proven_untrusted(text, now_s)
        self._used_at_s[token.token_id] = int(now_s)
        return token

    def ended(self, token_id: str) -> trio.Event:
        """Return what is set when the token is revoked or expires."""
        if all(one.token_id != token_id for one in self._tokens.every()):  # revoked since it was shown
            event = trio.Event()
            event.set()
            return event
        return self._ended.setdefault(token_id, trio.Event())

    # -- changing ----------------------------------------------------------------------------------------------

    async def create(
        self, name: str, role: Role, networks: tuple[TokenNetwork, ...] | None, ttl_s: int | None, by: str
    ) -> tuple[Token, str]:
        """Make a token; return it and the text that its holder shows, which the agent forgets."""
        async with self._writing:
            self._refuse_damaged()
            token, text = self._tokens.made(
                name,
                role,
                networks,
                now_s=int(time.time()),
                ttl_s=ttl_s,
                by=by,
                random=os.urandom(ID_BYTES + SECRET_BYTES),
            )
            await self._write([*self._tokens.every(), token])
            self._tokens.add(token)
            return token, text

    def planned(self) -> Tokens:
        """Return a copy, in which tokens can be made that nothing knows. Raises FailedError if none can be made."""
        self._refuse_damaged()
        return Tokens(self._tokens.every())

    def _refuse_damaged(self) -> None:
        if self._is_damaged:
            raise FailedError(
                f"cannot make a token: {self.trouble}", thing=str(self._path), hint="remove the file"
            )

    async def revoke(self, name: str) -> Token:
        """Revoke a token by its name or id: it is refused from now on, and its streams end."""
        token = self._tokens.named(name)
        self._end_token(token)
        async with self._writing:
            try:
                await self._write(self._tokens.every())
            except NetagentError as error:
                raise FailedError(
                    f"the token {token.name} is refused now, but works again when the agent has started anew: "
                    f"{error.message}",
                    thing=token.name,
                    hint="repair the disk, and remove its row from " + str(self._path),
                ) from None
        return token

    async def forget(self) -> None:
        """End all tokens, and delete the file: they belong to a membership that has ended."""
        async with self._writing:  # what is being made is among them
            for token in self._tokens.every():
                self._end_token(token)
            self._others.clear()
            self._is_damaged, self.trouble = False, ""
            self._path.unlink(missing_ok=True)

    async def run(self) -> None:
        """Drop tokens when their time is over, until cancelled."""
        await self._expiring.run(self._expire, _log, "cannot drop expired tokens", EXPIRY_PAUSE_S)

    async def _expire(self) -> None:
        over = self._tokens.expire(time.time())
        for token in over:
            self._end_token(token)
            _log.info("the token %s has expired", token.name)
        if over:
            async with self._writing:
                await self._write(self._tokens.every())

    def _end_token(self, token: Token) -> None:
        self._tokens.drop(token)
        self._used_at_s.pop(token.token_id, None)
        self._end(token.token_id)

    def _end(self, token_id: str) -> None:
        event = self._ended.pop(token_id, None)
        if event is not None:
            event.set()

    # -- the file ----------------------------------------------------------------------------------------------

    def _read(self) -> list[Token]:
        try:
            with self._path.open("rb") as file:
                content = file.read(MAX_FILE_BYTES + 1)
            if len(content) > MAX_FILE_BYTES:
                raise ValueError("it is too large")
            tokens, self._others = tokens_of_json(json.loads(content))
        except FileNotFoundError:
            return []
        except (OSError, ValueError, RecursionError) as error:
            self._is_damaged = True
            self.trouble = f"the tokens in {self._path} cannot be read ({error}); none of them works"
            _log.error("%s", self.trouble)
            return []
        if self._others:
            self.trouble = (
                f"{len(self._others)} of the tokens in {self._path} are none that this release knows"
            )
            _log.warning("%s; they do not work", self.trouble)
        return tokens

    async def _write(self, tokens: list[Token]) -> None:
        text = json.dumps(tokens_json(tokens, self._others), indent=1) + "\n"
        # Not abandoned when cancelled: a token is either on disk and valid, or neither.
        await trio.to_thread.run_sync(write_private, self._path, text)
