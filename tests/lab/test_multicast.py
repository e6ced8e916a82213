"""Multicast and broadcast, in the networks that carry them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import IO

import pytest
from lab.group import GROUP, GROUP6
from lab.harness import Cluster

pytestmark = pytest.mark.lab

PROGRAM = ("python3", str(Path(__file__).with_name("group.py")))
HEARD_S = 10.0


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
    for host in ("h2", "h3"):
        cluster.wait(lambda: len(floods(cluster, host)) == 3, 2.0, f"{host} knows not one of each elsewhere")

    with ExitStack() as stack:
        processes = {name: stack.enter_context(listening(cluster, name)) for name in listeners}
        for name, process in processes.items():
            assert lines(cluster, process, 1) == ["joined"], name
        for sender, text in (("sender", "hello"), ("loud3", "aloud")):
            sent = cluster.inside(sender, *PROGRAM, "send", text)
            assert sent.status == 0, sent.stderr
        for name, text in (("same2", "hello"), ("same3", "hello"), ("loud2", "aloud")):
            said = sorted(f"{address} {text}" for address in (GROUP, GROUP6, "255.255.255.255"))
            assert lines(cluster, processes[name], 3) == said, name
        for name, process in processes.items():
            assert process.stdin is not None
            process.stdin.close()
            assert lines(cluster, process) == [], name

    # A host whose last endpoint goes is sent nothing any more.
    cluster.lab.remove_container("same3")
    cluster.wait(lambda: floods(cluster, "h1") == ["192.0.2.2"], 2.0, "h3 is still flooded")


@contextmanager
def listening(cluster: Cluster, name: str) -> Iterator[subprocess.Popen[str]]:
    """A member of the groups in a container, until its standard input is closed."""
    argv = cluster.lab.container(name).entering([*PROGRAM, "listen"])
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def lines(cluster: Cluster, process: subprocess.Popen[str], count: int | None = None) -> list[str]:
    """The next ones that it prints, or all until it ends, sorted."""

    def read(output: IO[str]) -> list[str]:
        return sorted(line.rstrip() for line in islice(output, count))

    assert process.stdout is not None
    return list(cluster.in_background(read, process.stdout).result(HEARD_S))


def floods(cluster: Cluster, host: str) -> list[str]:
    """Where this host sends broadcast and multicast of all its networks."""
    entries = [path.split() for path in cluster.paths(host) if path.startswith("00:00:00:00:00:00")]
    return sorted(words[words.index("dst") + 1] for words in entries)
