"""`.ci/audit`: a known vulnerability fails it; that no service answers is said, and fails nothing."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

STEP = Path(__file__).parents[2] / ".ci" / "audit"


@pytest.mark.parametrize(
    ("answer", "expected", "is_silent"), [(0, 0, False), (1, 1, False), (2, 2, False), (3, 0, True)]
)
def test_the_step_fails_unless_no_service_answers(
    tmp_path: Path, answer: int, expected: int, is_silent: bool
) -> None:
    (tmp_path / ".ci").mkdir()
    shutil.copy(STEP, tmp_path / ".ci" / "audit")
    (tmp_path / "Makefile").write_text(".venv/.release:\n\t@true\n")
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\nexit {answer}\n")
    python.chmod(0o755)
    step = subprocess.run([tmp_path / ".ci" / "audit"], capture_output=True, text=True, check=False)
    assert step.returncode == expected
    assert ("nobody could be asked" in step.stdout) is is_silent
