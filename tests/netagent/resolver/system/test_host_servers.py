"""The host's resolv.conf: what is read from it, and how soon a change is seen."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from netagent.loop_passes import LoopPasses
from netagent.resolver.process import ResolverProcess
from netagent.resolver.system.host_servers import ChangedFile, ServersFile, parse_servers_untrusted
from netagent.resolver.system.layer import Layer, missing_layers


@pytest.mark.parametrize(
    ("text", "servers"),
    [
        ("nameserver 192.0.2.1\nnameserver 192.0.2.2\n", ("192.0.2.1", "192.0.2.2")),
        ("nameserver 192.0.2.2\nnameserver 192.0.2.1\n", ("192.0.2.2", "192.0.2.1")),
        ("# nameserver 192.0.2.9\n;x\nnameserver 192.0.2.1 # first\r\n", ("192.0.2.1",)),
        ("nameserver fe80::1%eth0\nnameserver localhost\nnameserver\n", ("fe80::1%eth0",)),
        ("nameserver 192.0.2.1\nnameserver 192.0.2.1\n", ("192.0.2.1",)),
        ("".join(f"nameserver 192.0.2.{number}\n" for number in range(20)), 8),
        ("", ()),
    ],
)
def test_servers_in_their_order(text: str, servers: int | tuple[str, ...]) -> None:
    found = parse_servers_untrusted(text)
    assert len(found) == servers if isinstance(servers, int) else found == servers


class Follower:
    def __init__(self, path: Path) -> None:
        self.now = 0.0
        self.file = ServersFile(ChangedFile(path).news, lambda: self.now)

    def later(self) -> tuple[str, ...] | None:
        """What is new at the next look."""
        self.now += 2 * ServersFile.LOOK_AGAIN_S
        return self.file.news()


def rename(path: Path, text: str) -> None:
    new = path.with_name("new")
    new.write_text(text)
    new.rename(path)


def truncate(path: Path, text: str) -> None:
    path.write_text(text)


def other_link(path: Path, text: str) -> None:
    target = path.with_name(f"target-{len(list(path.parent.iterdir()))}")
    target.write_text(text)
    link = path.with_name("link")
    link.symlink_to(target)
    link.rename(path)


def behind_link(path: Path, text: str) -> None:
    """What systemd-resolved does: the link stays, the file behind it is replaced."""
    target = path.with_name("behind")
    rename(target, text)
    if not path.is_symlink():
        path.unlink(missing_ok=True)
        path.symlink_to(target)


@pytest.mark.parametrize("write", [rename, truncate, other_link, behind_link])
def test_a_change_is_seen_at_the_next_look(tmp_path: Path, write: Callable[..., Any]) -> None:
    path = tmp_path / "resolv.conf"
    follower = Follower(path)
    assert follower.later() is None
    for digit in (1, 2, 3):  # of one length, and perhaps of one time
        write(path, f"nameserver 192.0.2.{digit}\n")
        assert follower.later() == (f"192.0.2.{digit}",)
        assert follower.later() is None
    write(path, "options timeout:1\nnameserver 192.0.2.3\n")
    assert follower.later() is None, "the same servers are no news"


def test_a_file_that_is_away_changes_nothing_and_is_read_when_it_is_back(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    truncate(path, "nameserver 192.0.2.1\n")
    follower = Follower(path)
    assert follower.later() == ("192.0.2.1",)
    path.unlink()
    assert follower.later() is None
    truncate(path, "nameserver 192.0.2.2\n")
    assert follower.later() == ("192.0.2.2",)


def test_many_queries_cost_one_look_in_a_while(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    truncate(path, "nameserver 192.0.2.1\n")
    follower = Follower(path)
    assert follower.later() == ("192.0.2.1",)
    truncate(path, "nameserver 192.0.2.2\n")
    assert [follower.file.news() for _ in range(100)] == [None] * 100
    assert follower.later() == ("192.0.2.2",)


def test_the_process_looks_before_it_answers(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        privileges: Any = SimpleNamespace(
            read_servers=ChangedFile(path).news, listen_in_place_of_agent=None, read_usage=None
        )
        process = ResolverProcess(listener, privileges, release="test", passes=LoopPasses())
        upstreams: Any = process._upstreams
        upstreams.LOOK_AGAIN_S = 0
        for digit in (1, 2):
            rename(path, f"nameserver 192.0.2.{digit}\n")
            process._server._before_answers()
            assert [one.address for one in process._resolver._default_servers] == [f"192.0.2.{digit}"]
        process.note_missing_layers([Layer.LANDLOCK])
        assert missing_layers(process._statistics()) == [Layer.LANDLOCK]


def test_a_file_without_end_is_read_to_a_bound(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text("nameserver 192.0.2.1\n" + "#" * 2**20 + "\nnameserver 192.0.2.2\n")
    assert Follower(path).later() == ("192.0.2.1",)
    assert path.stat().st_size > 2**20
