"""Pretended network namespaces, and Hypothesis without deadlines: a busy machine must not fail a test."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes.agent_host import Namespaces
from hypothesis import settings

settings.register_profile("netagent", deadline=None)
settings.load_profile("netagent")


@pytest.fixture
def namespaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Namespaces:
    return Namespaces(tmp_path, monkeypatch)
