"""The tokens of this host: who holds one may use the API by TCP, as far as the token's role and networks reach. Pure.

A token is `netagent_ID_SECRET`, with an id of 32 bits that is no secret, and a secret of 256 bits. The agent keeps
the secret's digest only, so neither its file nor a backup of it opens anything; a slow hash is for passwords, which
can be guessed. The id finds the row; the digest is compared in a time that does not depend on it, and is computed for
unknown ids as well.

A limited token has the ids of its networks, not their names: a member that makes a network anew under the name of a
removed one does not get the askers of the former. Names are for people.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from netagent.access.grant import Grant
from netagent.errors import FailedError, NotFoundError, RefusedError, UnauthorizedError
from netagent.interface.role import Role
from netagent.model.ids import NetworkId, is_name

MAX_TOKENS: Final = 256
"""Bound of tokens of a host; beyond it: refused. A host has some programs and people that ask it."""
MAX_TOKEN_NETWORKS: Final = 64
"""Bound of networks of a token; beyond it: refused, as for each list of a request."""
SECRET_BYTES: Final = 32
ID_BYTES: Final = 4

_FORM: Final = re.compile(r"netagent_([0-9a-f]{8})_([0-9a-f]{64})", re.ASCII)
_NO_DIGEST: Final = "0" * 64
"""The digest of no secret that can be found."""


@dataclass(frozen=True, slots=True)
class TokenNetwork:
    """A network of a limited token, and its name when the token was made."""

    network_id: NetworkId
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """What the agent keeps of a token."""

    token_id: str
    name: str
    role: Role
    networks: tuple[TokenNetwork, ...] | None
    """None: all, and what belongs to none."""
    created_at_s: int
    """Unix time, as the next one: a token outlives the agent's process."""
    expires_at_s: int | None
    """None: never."""
    created_by: str
    """The account."""
    digest: str = field(repr=False)

    @property
    def grant(self) -> Grant:
        """What it allows."""
        limit = None if self.networks is None else frozenset(one.network_id for one in self.networks)
        return Grant(self.role, f"the token {self.name}", limit, self.token_id, self.name)

    def has_expired(self, now_s: float) -> bool:
        """True from its last second on."""
        return self.expires_at_s is not None and now_s >= self.expires_at_s


class Tokens:
    """The tokens of a host. Times are Unix time."""

    def __init__(self, tokens: Iterable[Token] = ()) -> None:
        self._by_id = {one.token_id: one for one in tokens}

    def every(self) -> list[Token]:
        """Return all tokens, expired ones that `expire` has not dropped yet included."""
        return list(self._by_id.values())

    def named(self, name: str) -> Token:
        """Return a token by its name or id."""
        found = next((one for one in self._by_id.values() if name in {one.name, one.token_id}), None)
        if found is None:
            raise NotFoundError(
                f"there is no token {name!r} on this host",
                code="no-such-token",
                thing=name,
                hint="see `netagent token ls`",
            )
        return found

    def made(
        self,
        name: str,
        role: Role,
        networks: tuple[TokenNetwork, ...] | None,
        *,
        now_s: int,
        ttl_s: int | None,
        by: str,
        random: bytes,
    ) -> tuple[Token, str]:
        """Return a new token, and the text that its holder shows. It works once `add` got it. `random`: ID_BYTES and
        SECRET_BYTES that cannot be guessed."""
        if any(one.name == name for one in self._by_id.values()):
            raise RefusedError(
                f"there is a token {name!r} already",
                code="name-in-use",
                thing=name,
                hint=f"take another name, or revoke that one: `netagent token revoke {name}`",
            )
        if len(self._by_id) >= MAX_TOKENS:
            raise RefusedError(
                f"this host has {MAX_TOKENS} tokens",
                code="too-many",
                thing=name,
                hint="revoke some that `netagent token ls` shows",
            )
        token_id, secret = random[:ID_BYTES].hex(), random[ID_BYTES:]
        if len(secret) != SECRET_BYTES or token_id in self._by_id:
            raise FailedError("no new token could be drawn", thing=name, hint="try again")
        token = Token(
            token_id=token_id,
            name=name,
            role=role,
            networks=networks,
            created_at_s=now_s,
            expires_at_s=None if ttl_s is None else now_s + ttl_s,
            created_by=by,
            digest=_digest(token_id, secret),
        )
        return token, f"netagent_{token_id}_{secret.hex()}"

    def add(self, token: Token) -> None:
        """From now on the token is valid."""
        self._by_id[token.token_id] = token

    def drop(self, token: Token) -> None:
        """From now on it is not."""
        self._by_id.pop(token.token_id, None)

    def expire(self, now_s: float) -> list[Token]:
        """Drop those whose time is over, and return them: a clock that is set back later revives none."""
        over = [one for one in self._by_id.values() if one.has_expired(now_s)]
        for one in over:
            self.drop(one)
        return over

    def proven_untrusted(self, text: str, now_s: float) -> Token:
        """Return the token of which this is the text. Raises UnauthorizedError, which does not say what is wrong."""
        form = _FORM.fullmatch(text)
        token_id, secret = (form[1], bytes.fromhex(form[2])) if form else ("", bytes(SECRET_BYTES))
        found = self._by_id.get(token_id)
        # For unknown ids as well, in the same steps.
        is_right = hmac.compare_digest(_digest(token_id, secret), found.digest if found else _NO_DIGEST)
        if found is None or not is_right or found.has_expired(now_s):
            raise UnauthorizedError(
                "the token is not valid on this host: it is unknown, was revoked or has expired",
                hint="make one on this host: `sudo netagent token create NAME --read`",
            )
        return found


def bearer_untrusted(header: str | None) -> str:
    """Return the token of the header `Authorization`. Raises UnauthorizedError if it has none."""
    scheme, _, text = (header or "").partition(" ")
    if scheme.lower() != "bearer" or not text.strip():
        raise UnauthorizedError(
            "this needs a token",
            hint="send `Authorization: Bearer TOKEN`; `netagent token create` makes tokens",
        )
    return text.strip()


def _digest(token_id: str, secret: bytes) -> str:
    """Return the digest of a secret; the id is part of it, so that a row's digest fits no other row."""
    return hashlib.sha256(b"netagent token\0" + token_id.encode() + b"\0" + secret).hexdigest()


# -- as JSON ---------------------------------------------------------------------------------------------------------

_FIELDS: Final = {"id", "name", "role", "networks", "created_at", "expires_at", "created_by", "digest"}


def tokens_json(tokens: Iterable[Token], others: Sequence[object] = ()) -> dict[str, Any]:
    """Return what the file holds. `others`: rows that this release cannot read, as they were."""
    return {"schema": 1, "tokens": [*map(_row, tokens), *others]}


def tokens_of_json(content: object) -> tuple[list[Token], list[object]]:
    """Return the tokens of a file, and the rows that this release cannot read: those of a later one may have a limit
    that it does not know, so they do not work here, and are kept. Raises ValueError if there is no list of rows."""
    rows = content.get("tokens") if isinstance(content, Mapping) else None
    if not isinstance(rows, list):
        raise ValueError("it holds no list of tokens")
    tokens: list[Token] = []
    others: list[object] = []
    for row in rows:
        try:
            tokens.append(_token(row))
        except (KeyError, TypeError, ValueError, AttributeError):
            others.append(row)
    return tokens, others


def _row(token: Token) -> dict[str, Any]:
    limit = token.networks
    return {
        "id": token.token_id,
        "name": token.name,
        "role": token.role.word,
        "networks": None if limit is None else [{"id": one.network_id, "name": one.name} for one in limit],
        "created_at": token.created_at_s,
        "expires_at": token.expires_at_s,
        "created_by": token.created_by,
        "digest": token.digest,
    }


def _token(row: Any) -> Token:
    if row.keys() != _FIELDS:
        raise ValueError
    networks, expires_at_s = row["networks"], row["expires_at"]
    token = Token(
        token_id=row["id"],
        name=row["name"],
        role=Role[row["role"].upper()],
        networks=None
        if networks is None
        else tuple(TokenNetwork(NetworkId(one["id"]), one["name"]) for one in networks),
        created_at_s=int(row["created_at"]),
        expires_at_s=None if expires_at_s is None else int(expires_at_s),
        created_by=row["created_by"],
        digest=row["digest"],
    )
    is_whole = re.fullmatch(r"[0-9a-f]{8}", token.token_id) and re.fullmatch(r"[0-9a-f]{64}", token.digest)
    if not is_whole or not is_name(token.name) or token.role > Role.ADMIN:
        raise ValueError
    return token
