from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.agent_service import Served
from fakes.agent_service import served as serving

from netagent.control.client import Client


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with serving(tmp_path / "agent.sock") as server:
        yield server


@pytest.fixture
def client(served: Served) -> Client:
    return Client(str(served.path), timeout_s=10)
