import pytest
from fakes.docker_world import World


@pytest.fixture
def world(namespaces, monkeypatch):
    return World(namespaces, monkeypatch)
