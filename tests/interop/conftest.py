"""A real memberlist node, compiled once and kept by the hash of its source."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("memberlist_node.go")


@pytest.fixture(scope="session")
def memberlist_binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled Go program. Needs Debian's golang-go and golang-github-hashicorp-memberlist-dev."""
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]
    kept = Path.home() / ".cache" / "netagent-tests" / f"memberlist-node-{digest}"
    if kept.exists():
        return kept
    assert shutil.which("go"), "the interop tests need Debian's golang-go: run `make setup`"
    build = tmp_path_factory.mktemp("memberlist")
    shutil.copy(SOURCE, build / "node.go")
    environment = os.environ | {
        "GO111MODULE": "off",
        "GOPATH": "/usr/share/gocode",
        "GOFLAGS": "",
        "GOCACHE": str(build / "cache"),
    }
    built = subprocess.run(
        ["go", "build", "-o", "node", "node.go"],
        cwd=build,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert built.returncode == 0, f"the Go program does not compile:\n{built.stderr}"
    kept.parent.mkdir(parents=True, exist_ok=True)
    partial = kept.with_suffix(f".{os.getpid()}")
    shutil.copy(build / "node", partial)
    partial.rename(kept)
    return kept
