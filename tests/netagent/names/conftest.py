"""Hypothesis without deadlines, because a busy machine must not fail a test; and containers for the real process."""

import subprocess
import uuid

import pytest
from fakes.resolver_process import Container
from hypothesis import settings

settings.register_profile("netagent", deadline=None)
settings.load_profile("netagent")


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
