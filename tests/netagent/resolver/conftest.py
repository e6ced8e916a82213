"""Containers for the real resolver process."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes.resolver_process import Container
from harness.namespaces import NamespaceFactory


@pytest.fixture
def container(namespaces: NamespaceFactory) -> Container:
    made = namespaces("box")
    made.run("ip link set lo up")
    return Container(made.name)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    (tmp_path / "resolv.conf").write_text("")
    return tmp_path
