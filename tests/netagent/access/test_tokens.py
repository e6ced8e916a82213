from __future__ import annotations

import hashlib
import json
import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netagent.access.tokens import (
    ID_BYTES,
    MAX_TOKENS,
    SECRET_BYTES,
    Token,
    TokenNetwork,
    Tokens,
    bearer_untrusted,
    tokens_json,
    tokens_of_json,
)
from netagent.errors import FailedError, NotFoundError, RefusedError, UnauthorizedError
from netagent.interface.role import Role
from netagent.model.ids import NetworkId

NOW_S = 1_700_000_000
APP = TokenNetwork(NetworkId("a" * 32), "app")


def made(
    tokens: Tokens,
    name: str = "ci",
    *,
    role: Role = Role.READ,
    networks: tuple[TokenNetwork, ...] | None = None,
    ttl_s: int | None = None,
    random: bytes | None = None,
) -> tuple[Token, str]:
    token, text = tokens.made(
        name,
        role,
        networks,
        now_s=NOW_S,
        ttl_s=ttl_s,
        by="root",
        random=random or os.urandom(ID_BYTES + SECRET_BYTES),
    )
    tokens.add(token)
    return token, text


def test_the_text_proves_the_token_until_it_is_dropped() -> None:
    tokens = Tokens()
    token, text = made(tokens, role=Role.ATTACH, networks=(APP,))
    proven = tokens.proven_untrusted(text, NOW_S)
    assert proven == token
    assert proven.grant.role is Role.ATTACH
    assert proven.grant.networks == frozenset({APP.network_id})
    tokens.drop(token)
    with pytest.raises(UnauthorizedError):
        tokens.proven_untrusted(text, NOW_S)


@given(st.integers(0, 81), st.characters(codec="latin-1"))
def test_no_other_text_proves_it(place: int, letter: str) -> None:
    tokens = Tokens()
    _, text = made(tokens, random=bytes(range(ID_BYTES + SECRET_BYTES)))
    other = text[:place] + letter + text[place + 1 :]
    if other != text:
        with pytest.raises(UnauthorizedError):
            tokens.proven_untrusted(other, NOW_S)


@given(st.text(max_size=200))
def test_any_text_is_refused_by_one_error(text: str) -> None:
    with pytest.raises(UnauthorizedError):
        Tokens().proven_untrusted(text, NOW_S)


def test_a_digest_opens_nothing_and_fits_no_other_row() -> None:
    tokens = Tokens()
    token, text = made(tokens)
    _, other = made(tokens, "other")
    with pytest.raises(UnauthorizedError):
        tokens.proven_untrusted(f"netagent_{token.token_id}_{token.digest}", NOW_S)
    with pytest.raises(UnauthorizedError):
        tokens.proven_untrusted(f"netagent_{token.token_id}_{other.rpartition('_')[2]}", NOW_S)
    assert text.rpartition("_")[2] not in json.dumps(tokens_json(tokens.every()))
    assert token.digest not in repr(token)


@pytest.mark.parametrize("shown", ["unknown", "wrong", "expired", "right", "no token"])
def test_each_check_does_the_same_work(shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """So time does not tell an unknown id from a wrong secret: one digest, over as many octets."""
    tokens = Tokens()
    _, text = made(tokens, ttl_s=60)
    texts = {"unknown": "netagent_00000000_" + "0" * 64, "wrong": text[:-64] + "0" * 64, "no token": "x"}
    digests: list[int] = []
    real = hashlib.sha256

    def counted(octets: bytes) -> Any:
        digests.append(len(octets))
        return real(octets)

    monkeypatch.setattr(hashlib, "sha256", counted)
    now_s = NOW_S + (60 if shown == "expired" else 0)
    if shown == "right":
        tokens.proven_untrusted(text, now_s)
    else:
        with pytest.raises(
            UnauthorizedError, match="the token is not valid on this host: it is unknown, was"
        ):
            tokens.proven_untrusted(texts.get(shown, text), now_s)
    assert len(digests) == 1
    assert digests[0] == 56 or shown == "no token"


def test_a_token_ends_at_its_time_and_no_clock_revives_it() -> None:
    tokens = Tokens()
    token, text = made(tokens, ttl_s=60)
    assert tokens.proven_untrusted(text, NOW_S + 59.9) == token
    with pytest.raises(UnauthorizedError):
        tokens.proven_untrusted(text, NOW_S + 60)
    assert tokens.expire(NOW_S + 60) == [token]
    assert tokens.expire(NOW_S + 60) == []
    with pytest.raises(UnauthorizedError):
        tokens.proven_untrusted(text, NOW_S)


def test_a_name_is_used_once_and_there_is_an_end() -> None:
    tokens = Tokens()
    token, _ = made(tokens)
    with pytest.raises(RefusedError, match="there is a token 'ci' already"):
        made(tokens)
    assert tokens.named("ci") == tokens.named(token.token_id) == token
    with pytest.raises(NotFoundError):
        tokens.named("ci2")
    for number in range(1, MAX_TOKENS):
        made(tokens, f"t{number}")
    with pytest.raises(RefusedError, match="this host has 256 tokens"):
        made(tokens, "one-more")


def test_an_id_is_never_used_twice() -> None:
    tokens = Tokens()
    made(tokens, random=bytes(ID_BYTES + SECRET_BYTES))
    with pytest.raises(FailedError):
        made(tokens, "other", random=bytes(ID_BYTES) + b"1" * SECRET_BYTES)


@given(st.lists(st.tuples(st.sampled_from([Role.READ, Role.ATTACH, Role.ADMIN]), st.booleans()), max_size=5))
def test_the_file_brings_back_what_it_was_given(kinds: list[tuple[Role, bool]]) -> None:
    tokens = Tokens()
    for number, (role, is_limited) in enumerate(kinds):
        made(tokens, f"t{number}", role=role, networks=(APP,) if is_limited else None, ttl_s=number or None)
    content = json.loads(json.dumps(tokens_json(tokens.every())))
    assert tokens_of_json(content) == (tokens.every(), [])


def test_a_row_of_a_later_release_does_not_work_and_stays() -> None:
    """It may have a limit that this release does not know."""
    tokens = Tokens()
    made(tokens)
    made(tokens, "late")
    content: dict[str, Any] = tokens_json(tokens.every())
    content["tokens"][1]["only_from"] = ["192.0.2.0/24"]
    known, others = tokens_of_json(content)
    assert [one.name for one in known] == ["ci"]
    assert tokens_json(known, others) == content


@pytest.mark.parametrize(
    "change",
    [{"role": "socket"}, {"role": 3}, {"networks": "app"}, {"networks": [{}]}, {"digest": ""}, {"id": "../.."},
     {"expires_at": "never"}, {"name": "\x1b[2J"}, {"name": None}],
)  # fmt: skip
def test_a_damaged_row_does_not_work(change: dict[str, Any]) -> None:
    tokens = Tokens()
    made(tokens)
    content = tokens_json(tokens.every())
    content["tokens"][0] |= change
    assert tokens_of_json(content) == ([], content["tokens"])


@pytest.mark.parametrize("content", [None, [], {}, {"tokens": {}}])
def test_a_file_of_something_else_is_refused(content: object) -> None:
    with pytest.raises(ValueError, match="no list of tokens"):
        tokens_of_json(content)


def test_the_header() -> None:
    assert bearer_untrusted("Bearer abc") == bearer_untrusted("bearer  abc ") == "abc"
    for header in (None, "", "Bearer", "Bearer ", "Basic abc", "abc"):
        with pytest.raises(UnauthorizedError, match="this needs a token"):
            bearer_untrusted(header)
