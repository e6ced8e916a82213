"""What the harness makes is gone after a test that fails in the middle (tests/harness/namespaces.py)."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest
from harness.namespaces import Namespace, throwaway_namespaces

pytestmark = pytest.mark.kernel


class OddError(Exception):
    pass


def fail_beside_a_program(made: list[Namespace]) -> subprocess.Popen[bytes]:
    with pytest.raises(OddError), throwaway_namespaces() as make:  # noqa: PT012 - the exit is what is tested
        made += [make("one"), make("two"), make("three")]
        process = subprocess.Popen(["ip", "netns", "exec", made[0].name, "sleep", "infinity"])
        while str(process.pid) not in made[0].run(f"ip netns pids {made[0].name}").split():
            assert process.poll() is None
        made[1].remove()
        raise OddError
    return process


def test_namespaces_and_the_programs_in_them_do_not_outlive_a_failure() -> None:
    made: list[Namespace] = []
    process = fail_beside_a_program(made)
    assert process.wait(10) == -signal.SIGKILL
    assert len(made) == 3
    assert not [one for one in made if Path(one.path).exists()]
