"""A disk that is really full: a small tmpfs in a mount namespace of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[2]


@pytest.mark.kernel
def test_a_full_disk_refuses_by_name_keeps_room_to_delete_and_recovers(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "gossip")))}
    command = [
        "unshare",
        "--mount",
        "--propagation",
        "private",
        sys.executable,
        str(HERE / "full_disk.py"),
        str(tmp_path),
    ]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["nearly-full", "full", "recovered", "refused-to-open"]
    assert list(tmp_path.iterdir()) == [], "the mount leaked"
