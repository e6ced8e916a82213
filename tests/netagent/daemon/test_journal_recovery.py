"""A start without its journal removes nothing that a container may depend on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes.virtual import virtual

from netagent.daemon.journal_recovery import require_journal
from netagent.errors import RefusedError


def kernel(*names: str) -> Callable[..., Any]:
    async def interfaces() -> tuple[str, ...]:
        return names

    return interfaces


@pytest.mark.parametrize("content", [None, b""])
@virtual
async def test_without_a_journal_interfaces_of_endpoints_keep_the_agent_from_starting(
    tmp_path: Path, content: bytes | None
) -> None:
    journal, keyring = tmp_path / "state.db", tmp_path / "keyring"
    if content is not None:
        journal.write_bytes(content)
    with pytest.raises(RefusedError) as caught:
        await require_journal(journal, keyring, kernel("nv4", "nv2", "nv3", "nv1"))
    said = str(caught.value)
    assert caught.value.code == "journal-lost"
    assert str(journal) in said
    assert "(nv1, nv2, nv3, …)" in said
    assert f"move {keyring} away" in said
    assert journal.exists() == (content is not None), "or the next start would not know that it is lost"


@virtual
async def test_without_interfaces_there_is_nothing_to_lose(tmp_path: Path) -> None:
    await require_journal(tmp_path / "state.db", tmp_path / "keyring", kernel())


@virtual
async def test_with_a_journal_left_overs_are_left_overs(tmp_path: Path) -> None:
    journal = tmp_path / "state.db"
    journal.write_bytes(b"SQLite format 3\0")
    await require_journal(journal, tmp_path / "keyring", kernel("nv1"))
