"""After a crash at any instant: what was acknowledged is there, what belongs together is together, counters rise.

A SIGKILL shows what a crash of the agent leaves. A copy of a stopped process's files shows what a crash of the
machine leaves when the disk has all writes; a copy with a torn write-ahead log, when the disk has lost the last.
"""

from __future__ import annotations

import os
import random
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen

import pytest

from netagent.journal.journal import Journal

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
VICTIM = HERE / "journal_victim.py"


@contextmanager
def victim(path: Path) -> Iterator[Popen[bytes]]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "gossip")))}
    process = subprocess.Popen(
        [sys.executable, VICTIM, path], stdout=subprocess.PIPE, bufsize=0, env=environment
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def last_acknowledged(process: Popen[bytes], *, at_least: int) -> int:
    """Read what the victim has printed until it is `at_least`; gives the last number."""
    number = 0
    assert process.stdout is not None
    while number < at_least:
        line = process.stdout.readline()
        assert line, "the victim died by itself"
        number = int(line)
    return number


def read_rest(process: Popen[bytes], number: int) -> int:
    """All that is in the pipe of a process that is dead or stopped."""
    assert process.stdout is not None
    while select.select([process.stdout], [], [], 0)[0]:
        line = process.stdout.readline()
        if not line.endswith(b"\n"):
            break
        number = int(line)
    return number


def content(path: Path) -> tuple[int, ...]:
    """The head that the journal opens with, after checking that both tables have the same change."""
    journal = Journal.open(path)
    try:
        (log,) = journal.load_own_logs()
        assert max(int(entry.value or b"0") for entry in log.entries.values()) == log.head
        assert max(int(row.service) for row in journal.load_endpoints()) == log.head
        return log.head, journal.boot_epoch
    finally:
        journal.close()


def test_a_killed_agent_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    path, rng = tmp_path / "state.db", random.Random(1)
    acknowledged = 0
    for life in range(1, 6):
        with victim(path) as process:
            acknowledged = last_acknowledged(process, at_least=acknowledged + rng.randint(1, 60))
            process.send_signal(signal.SIGKILL)
            process.wait()
            acknowledged = read_rest(process, acknowledged)
        head, boot_epoch = content(path)
        assert acknowledged <= head <= acknowledged + 1
        assert boot_epoch == 2 * life
        acknowledged = head


@pytest.mark.parametrize("seed", range(3))
def test_a_machine_that_stops_leaves_old_or_new_content(tmp_path: Path, seed: int) -> None:
    path, rng = tmp_path / "state.db", random.Random(seed)
    with victim(path) as process:
        acknowledged = 0
        for number in range(4):
            acknowledged = last_acknowledged(process, at_least=acknowledged + rng.randint(1, 40))
            process.send_signal(signal.SIGSTOP)
            os.waitpid(process.pid, os.WUNTRACED)
            acknowledged = read_rest(process, acknowledged)
            whole, torn = tmp_path / f"whole{number}", tmp_path / f"torn{number}"
            for copy in (whole, torn):
                copy.mkdir()
                for name in ("state.db", "state.db-wal"):  # the shared memory file dies with the machine
                    shutil.copy(tmp_path / name, copy / name)
            process.send_signal(signal.SIGCONT)

            head, boot_epoch = content(whole / "state.db")
            assert acknowledged <= head <= acknowledged + 1
            assert boot_epoch == 2

            log = torn / "state.db-wal"
            os.truncate(log, log.stat().st_size - rng.randint(1, 20_000) % log.stat().st_size)
            tear_content(torn / "state.db", head)


def tear_content(path: Path, head: int) -> None:
    """A torn log gives an earlier content, never a mixed one."""
    journal = Journal.open(path)
    logs = journal.load_own_logs()
    rows = journal.load_endpoints()
    journal.close()
    if logs:
        assert max(int(entry.value or b"0") for entry in logs[0].entries.values()) == logs[0].head <= head
        assert max(int(row.service) for row in rows) == logs[0].head
    else:
        assert not rows
