"""Containers for the real resolver process."""

import subprocess
import uuid

import pytest
from fakes.resolver_process import Container


@pytest.fixture
def container():
    netns = f"nt8-{uuid.uuid4().hex[:8]}"
    subprocess.run(["ip", "netns", "add", netns], check=True)
    try:
        subprocess.run(["ip", "-n", netns, "link", "set", "lo", "up"], check=True)
        yield Container(netns)
    finally:
        subprocess.run(["ip", "netns", "del", netns], check=True)


@pytest.fixture
def run_dir(tmp_path):
    (tmp_path / "resolv.conf").write_text("")
    return tmp_path
