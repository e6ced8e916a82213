"""Settings that are read again and again, by files that stay open."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from netagent.datapath.host.sysctls import Settings, WatchedSettings

WANTED = (("eth0/accept_ra", b"0\n"), ("eth0/disable_ipv6", b"0\n"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "eth0").mkdir()
    for name, value in WANTED:
        (tmp_path / name).write_bytes(value)
    return tmp_path


@pytest.fixture
def settings(folder: Path) -> Iterator[Settings]:
    opened = Settings(os.open(folder, os.O_PATH | os.O_DIRECTORY))
    yield opened
    opened.close()


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_what_is_altered_is_seen_and_nothing_stays_open(folder: Path, settings: Settings) -> None:
    before = descriptors()
    watched = WatchedSettings(settings, WANTED)
    assert not watched.are_altered()
    assert not watched.are_altered()
    assert descriptors() == before + 2
    (folder / "eth0/accept_ra").write_bytes(b"1\n")
    assert watched.are_altered()
    (folder / "eth0/accept_ra").write_bytes(b"0\n")
    assert not watched.are_altered()
    watched.close()
    assert descriptors() == before


def test_an_interface_that_is_not_there_is_altered(folder: Path, settings: Settings) -> None:
    watched = WatchedSettings(settings, WANTED)
    (folder / "eth0").rename(folder / "eth1")
    assert watched.are_altered()
    (folder / "eth1").rename(folder / "eth0")
    assert not watched.are_altered()
    watched.close()


def test_with_too_many_files_they_are_opened_each_time(
    folder: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = descriptors()
    real, is_full = os.open, True

    def refusing(path: str, flags: int, **options: int) -> int:
        if is_full and flags & os.O_ACCMODE == os.O_RDONLY and path == "eth0/disable_ipv6":
            found = descriptors()
            if found > before:  # the one beside it is open
                raise OSError(errno.EMFILE, "too many open files")
        return real(path, flags, **options)

    monkeypatch.setattr(os, "open", refusing)
    watched = WatchedSettings(settings, WANTED)
    assert not watched.are_altered()
    assert descriptors() == before
    (folder / "eth0/disable_ipv6").write_bytes(b"1\n")
    assert watched.are_altered()
    watched.close()
