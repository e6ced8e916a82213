"""`lab demo` as a user runs it."""

from __future__ import annotations

import re
import sys

import pytest
from netlab import programs
from netlab.demo import DEMO_DIR
from netlab.lab import Lab

pytestmark = pytest.mark.lab


def test_the_demo_keeps_its_promise() -> None:
    done = programs.run(
        [sys.executable, str(programs.REPOSITORY / "netns-lab" / "lab"), "demo"], timeout_s=100
    )
    assert done.status == 0, done.stdout + done.stderr
    took = re.search(r"All as expected, in (\d+) s", done.stdout)
    assert took
    assert int(took[1]) < 60
    assert Lab(DEMO_DIR).remains() == []
