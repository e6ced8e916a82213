"""Programs in Go that tests run: compiled once, against Debian's packages, and kept by the hash of their source."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

COMPILE_S = 600.0
"""At most: Go's own library goes with it, half a minute of CPU that a busy machine makes minutes of."""


def compiled(source: Path, build: Path) -> Path:
    """The program made of `source`; `build` is an empty folder that may be used for it."""
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:16]
    kept = Path.home() / ".cache" / "netagent-tests" / f"{source.stem.replace('_', '-')}-{digest}"
    if kept.exists():
        return kept
    assert shutil.which("go"), "this test needs Debian's golang-go: run `make setup`"
    shutil.copy(source, build / "program.go")
    environment = os.environ | {
        "GO111MODULE": "off",
        "GOPATH": "/usr/share/gocode",
        "GOFLAGS": "",
        "GOCACHE": str(build / "cache"),
    }
    built = subprocess.run(
        ["go", "build", "-o", "program", "program.go"],
        cwd=build,
        env=environment,
        capture_output=True,
        text=True,
        timeout=COMPILE_S,
        check=False,
    )
    assert built.returncode == 0, f"the Go program does not compile:\n{built.stderr}"
    kept.parent.mkdir(parents=True, exist_ok=True)
    partial = kept.with_suffix(f".{os.getpid()}")
    shutil.copy(build / "program", partial)
    partial.rename(kept)
    return kept
