from __future__ import annotations

import pytest
from fakes.agent_host import Namespaces
from fakes.docker_world import World


@pytest.fixture
def world(namespaces: Namespaces, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(namespaces, monkeypatch)
