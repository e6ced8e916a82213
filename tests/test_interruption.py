"""A suite that gets SIGTERM takes down what its fixtures made."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SUITE = """
import pathlib, time
import pytest, trio

HERE = pathlib.Path(__file__).parent

@pytest.fixture
def lab():
    yield
    time.sleep(0.2)  # in which the second signal comes
    (HERE / "down").touch()

def test_that_takes_long(lab):
    (HERE / "up").touch()
    {waits}
"""


@pytest.mark.parametrize("waits", ["time.sleep(60)", "trio.run(trio.sleep_forever)"])
def test_sigterm_lets_fixtures_finish(tmp_path: Path, waits: str) -> None:
    shutil.copy(Path(__file__).with_name("conftest.py"), tmp_path)
    (tmp_path / "test_long.py").write_text(SUITE.format(waits=waits))
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(tmp_path),
        ".",
    ]
    # conftest.py imports what makes labs and namespaces.
    root = Path(__file__).parents[1]
    paths = (root, root / "gossip", root / "dns", root / "tests", root / "netns-lab")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True, env=environment) as suite:
        give_up_at = time.monotonic() + 30
        while not (tmp_path / "up").exists():
            assert time.monotonic() < give_up_at
            assert suite.poll() is None
            time.sleep(0.01)
        suite.send_signal(signal.SIGTERM)
        time.sleep(0.1)
        suite.send_signal(signal.SIGTERM)
        output, _ = suite.communicate(timeout=30)
    assert (tmp_path / "down").exists(), output
    assert suite.returncode == pytest.ExitCode.INTERRUPTED
