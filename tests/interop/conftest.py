"""A real memberlist node."""

from __future__ import annotations

from pathlib import Path

import pytest
from go_program import compiled


@pytest.fixture(scope="session")
def memberlist_binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled Go program. Needs Debian's golang-go and golang-github-hashicorp-memberlist-dev."""
    return compiled(Path(__file__).with_name("memberlist_node.go"), tmp_path_factory.mktemp("memberlist"))
