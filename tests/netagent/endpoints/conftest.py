"""Pretended network namespaces."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes.agent_host import Namespaces


@pytest.fixture
def namespaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Namespaces:
    return Namespaces(tmp_path, monkeypatch)
