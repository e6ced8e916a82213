"""Pretended network namespaces."""

import pytest
from fakes.agent_host import Namespaces


@pytest.fixture
def namespaces(tmp_path, monkeypatch):
    return Namespaces(tmp_path, monkeypatch)
