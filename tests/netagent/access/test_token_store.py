from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import trio
from trio.testing import trio_test

from netagent.access import token_store
from netagent.access.token_store import TokenStore
from netagent.errors import FailedError, UnauthorizedError
from netagent.interface.role import Role


async def created(store: TokenStore, name: str = "ci", ttl_s: int | None = None) -> str:
    _, text = await store.create(name, Role.READ, None, ttl_s, "root")
    return text


@trio_test
async def test_a_token_outlives_the_agent_and_its_secret_does_not(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    text = await created(TokenStore(path))
    assert path.stat().st_mode & 0o777 == 0o600
    assert text.rpartition("_")[2] not in path.read_text()
    again = TokenStore(path)
    token = again.proven_untrusted(text)
    assert (token.name, token.created_by) == ("ci", "root")
    assert again.used_at_s(token) is not None


@trio_test
async def test_a_revoked_token_is_refused_at_once_and_after_a_start(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    store = TokenStore(path)
    text = await created(store)
    ended = store.ended(store.proven_untrusted(text).token_id)
    assert not ended.is_set()
    token = await store.revoke("ci")
    assert ended.is_set()
    assert store.ended(token.token_id).is_set()  # also for a stream that begins just then
    for one in (store, TokenStore(path)):
        with pytest.raises(UnauthorizedError):
            one.proven_untrusted(text)


@trio_test
async def test_a_token_that_is_not_on_disk_does_not_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = TokenStore(tmp_path / "tokens")
    text = await created(store)

    def fail(_path: Path, _text: str) -> None:
        raise FailedError("cannot write: No space left on device")

    monkeypatch.setattr(token_store, "write_private", fail)
    with pytest.raises(FailedError):
        await created(store, "other")
    assert [one.name for one in store.every()] == ["ci"]
    with pytest.raises(FailedError, match="the token ci is refused now, but works again when the agent"):
        await store.revoke("ci")
    with pytest.raises(UnauthorizedError):
        store.proven_untrusted(text)


@pytest.mark.parametrize("content", ["{", "[]", '{"tokens": 1}', "[" * 100_000, "\xff"])
@trio_test
async def test_a_damaged_file_opens_nothing_and_stays(tmp_path: Path, content: str) -> None:
    path = tmp_path / "tokens"
    path.write_text(content, encoding="latin-1")
    store = TokenStore(path)
    assert "none of them works" in store.trouble
    with pytest.raises(FailedError, match="cannot make a token: the tokens in"):
        await created(store)
    assert path.read_text(encoding="latin-1") == content


@trio_test
async def test_rows_of_a_later_release_stay(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    await created(TokenStore(path), "late")
    content = json.loads(path.read_text())
    content["tokens"][0]["later"] = True
    path.write_text(json.dumps(content))
    store = TokenStore(path)
    assert store.every() == []
    assert store.trouble
    await created(store)
    assert [one["name"] for one in json.loads(path.read_text())["tokens"]] == ["ci", "late"]


@trio_test
async def test_streams_end_when_the_time_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tokens"
    store = TokenStore(path)
    text = await created(store, ttl_s=3600)
    ended = store.ended(store.proven_untrusted(text).token_id)
    later = time.time() + 3600
    monkeypatch.setattr(time, "time", lambda: later)
    assert store.every() == []
    with pytest.raises(UnauthorizedError):
        store.proven_untrusted(text)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.run)
        with trio.fail_after(30):
            await ended.wait()
            while json.loads(path.read_text())["tokens"]:
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()


@trio_test
async def test_who_leaves_the_cluster_leaves_its_tokens(tmp_path: Path) -> None:
    store = TokenStore(tmp_path / "tokens")
    text = await created(store)
    ended = store.ended(store.proven_untrusted(text).token_id)
    await store.forget()
    assert ended.is_set()
    assert not (tmp_path / "tokens").exists()
    with pytest.raises(UnauthorizedError):
        store.proven_untrusted(text)


@trio_test
async def test_changes_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    store = TokenStore(path)
    await created(store, "gone")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.revoke, "gone")
        for number in range(5):
            nursery.start_soon(created, store, f"t{number}")
    assert {one.name for one in TokenStore(path).every()} == {f"t{number}" for number in range(5)}
