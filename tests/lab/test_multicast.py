"""Multicast and broadcast, in the networks that carry them."""

from __future__ import annotations

from pathlib import Path

import pytest
from lab.group import GROUP, GROUP6
from lab.harness import Cluster

pytestmark = pytest.mark.lab

PROGRAM = ("python3", str(Path(__file__).with_name("group.py")))
LISTEN_S = 4.0


def test_scenario_07_multicast_reaches_joined_receivers_and_no_other_network(cluster: Cluster) -> None:
    for name, options in {"app": ["--multicast"], "loud": ["--multicast"], "plain": []}.items():
        cluster.netagent("h1", "network", "create", name, *options)
    cluster.attach("h1", "sender")
    listeners = {
        "same2": ("h2", "app"),
        "same3": ("h3", "app"),
        "loud2": ("h2", "loud"),
        "plain2": ("h2", "plain"),
    }
    for name, (host, network) in listeners.items():
        cluster.attach(host, name, "--network", network)
    cluster.attach("h3", "loud3", "--network", "loud")
    cluster.wait(
        lambda: floods(cluster, "h1") == ["192.0.2.2", "192.0.2.3"], 2.0, "h1 does not know both hosts"
    )
    cluster.wait(
        lambda: len(floods(cluster, "h2")) == 3, 2.0, "h2 has not one host of each endpoint elsewhere"
    )

    listening = {
        name: cluster.in_background(cluster.inside, name, *PROGRAM, "listen", str(LISTEN_S))
        for name in listeners
    }
    for name in listeners:
        cluster.wait(
            lambda name=name: {GROUP, GROUP6} <= set(cluster.inside(name, "ip", "maddr").stdout.split()),
            3.0,
            f"{name} has not joined",
        )
    sent = cluster.inside("sender", *PROGRAM, "send", "hello")
    assert sent.status == 0, sent.stderr
    heard = {name: sorted(future.result().stdout.splitlines()) for name, future in listening.items()}
    everything = sorted(f"{address} hello" for address in (GROUP, GROUP6, "255.255.255.255"))
    assert heard == {"same2": everything, "same3": everything, "loud2": [], "plain2": []}

    # A host whose last endpoint goes is sent nothing any more.
    cluster.lab.remove_container("same3")
    cluster.wait(lambda: floods(cluster, "h1") == ["192.0.2.2"], 2.0, "h3 is still flooded")


def floods(cluster: Cluster, host: str) -> list[str]:
    """Where this host sends broadcast and multicast of all its networks."""
    entries = [path.split() for path in cluster.paths(host) if path.startswith("00:00:00:00:00:00")]
    return sorted(words[words.index("dst") + 1] for words in entries)
