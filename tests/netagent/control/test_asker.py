"""Who sent a request, by the word of the kernel."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest
import trio

from netagent.control import asker
from netagent.model.author import Author, AuthorKind, current_author


async def author_of_a_connection() -> Author:
    ours, theirs = trio.socket.socketpair()
    with ours, theirs:
        asker.note(ours)
    return current_author()


def test_the_account_and_the_program_at_the_other_end() -> None:
    name = pwd.getpwuid(os.getuid()).pw_name
    program = Path("/proc/self/comm").read_text().strip()
    assert trio.run(author_of_a_connection) == Author(AuthorKind.USER, name, os.getuid(), program)


@pytest.mark.parametrize("name", ["stop", "a\nb", "x" * 33])
def test_an_account_that_could_be_mistaken_goes_by_its_number(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = pwd.struct_passwd((name, "x", os.getuid(), 0, "", "/", "/bin/sh"))
    monkeypatch.setattr(pwd, "getpwuid", lambda _uid: entry)
    assert trio.run(author_of_a_connection).account == f"uid {os.getuid()}"


def test_a_program_that_has_ended_or_calls_itself_nonsense_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert asker._program_of(0) is None  # a process of a namespace that we do not see
    (tmp_path / "comm").write_bytes(b"\x1b[2J\xff\n")
    monkeypatch.setattr(asker, "Path", lambda _path: tmp_path / "comm")
    assert asker._program_of(1) is None


def test_a_client_by_tcp_is_unknown() -> None:
    async def author_of_a_stranger() -> Author:
        asker.note_stranger()
        return current_author()

    assert trio.run(author_of_a_stranger) == Author(AuthorKind.USER, "unknown")
