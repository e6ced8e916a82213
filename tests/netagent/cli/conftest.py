import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fakes.agent_service import Served
from fakes.agent_service import served as serving

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with serving(tmp_path / "agent.sock") as server:
        yield server


@pytest.fixture
def netagent(tmp_path: Path) -> Run:
    """The command line in a process of its own, asking whatever serves at agent.sock."""
    environment = {**os.environ, "NETAGENT_SOCKET": str(tmp_path / "agent.sock"), "PYTHONWARNINGS": "error"}

    def run(*words: str, stdin: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "netagent.cli.main", *words],
            input=stdin,
            text=True,
            timeout=30,
            capture_output=True,
            check=False,
            env={**environment, **variables},
        )

    return run
