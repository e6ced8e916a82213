"""A cluster goes from an earlier release to this one host by host. The earlier one is a commit of this repository.

Its agents, resolvers and kernel objects are those of the commit before hosts signed anything. The command line is
this release's throughout, as on a host where the package is upgraded before its agent restarts.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from lab.conftest import inhabited
from lab.harness import STREAM, Cluster
from lab.monitor import monitored
from lab.test_agent_away import begin, end, streams
from netlab import cluster as forming
from netlab import programs
from netlab.lab import Lab
from netlab.programs import REPOSITORY
from netlab.topology import of_hosts

pytestmark = [pytest.mark.lab, pytest.mark.long, pytest.mark.timeout(400)]

BEFORE = "39ff8b315859"
"""The last commit whose hosts signed neither records (0072) nor claims (0073), and had no sessions (0074)."""

QUESTIONS = str(Path(__file__).with_name("questions.py"))
RELEASE = "0.0.9"
"""As which that commit runs."""

SECONDS = 75
UNSIGNED = {"gossip_refused_claim_unsigned", "record_refused_log_unsigned"}


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """The product of that commit."""
    git = ["git", "-c", f"safe.directory={REPOSITORY}", "-C", str(REPOSITORY)]
    archive = tmp_path / "earlier.tar"
    done = subprocess.run(
        [*git, "archive", "--output", archive, BEFORE, "netagent", "gossip", "dns"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, (
        f"the history of this clone lacks {BEFORE}, an earlier release: `git fetch --unshallow`; {done.stderr}"
    )
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path / "earlier", filter="data")
    # Not every commit has a number of its own; an agent replaces the resolver of another release.
    version = tmp_path / "earlier/netagent/__init__.py"
    version.write_text(re.sub(r'__version__ = ".*"', f'__version__ = "{RELEASE}"', version.read_text()))
    return tmp_path / "earlier"


def start_earlier(app: Cluster, tree: Path, *hosts: str) -> None:
    path = ":".join(str(tree / folder) for folder in (".", "gossip", "dns"))
    for name in hosts:
        with app.agent_of(name) as host:
            host._agent.start(
                ["env", f"PYTHONPATH={path}", sys.executable, "-P", "-m", "netagent.cli.main", "agent"]
            )
    for name in hosts:
        app.lab.host(name).wait_agent()


@pytest.fixture
def old(new_lab: Callable[[], Lab], earlier: Path) -> Iterator[Cluster]:
    """Three hosts of the earlier release with a network `app`, a container each, and servers of streams."""
    lab = new_lab()
    lab.up(of_hosts(3), agents=False)
    with ThreadPoolExecutor(32) as pool:
        app = Cluster(lab, pool)
        start_earlier(app, earlier, *app.hosts)
        forming.form_cluster(lab.hosts)
        inhabited(app)
        for number in (1, 3):
            app.attach(f"h{number}", f"echo{number}", command=("python3", STREAM, "serve"))
            app.await_listening(f"echo{number}", 7000)
        for container in ("c1", "c2", "c3"):
            app.wait(lambda: app.finds(container, "echo1", "echo3"), 5.0, f"{container} lacks names")
        yield app


@contextmanager
def names_are_answered(app: Cluster) -> Iterator[None]:
    """Each container asks for names of other hosts all the while, as a stub resolver does: all answers are right."""
    expected = {app.ask("c2", name).data[0] for name in ("echo1", "echo3")}
    with ExitStack() as stack:
        asking = []
        for name in ("c1", "c2", "c3"):
            command = app.lab.container(name).entering(
                ["python3", QUESTIONS, "202", "echo1.app", "echo3.app"]
            )
            pipe = subprocess.PIPE
            process = subprocess.Popen(
                command, stdin=pipe, stdout=pipe, text=True, env=programs.environment()
            )
            stack.callback(process.kill)
            asking.append(process)
        yield
        for process in asking:
            printed, _ = process.communicate("", timeout=30)
            counts = json.loads(printed)
            assert counts.keys() == expected, counts
            assert min(counts.values()) > 100, counts  # the two names in turns


OURS = re.compile(r"\b(na|nx)-[0-9a-f]|\bnv[0-9a-f]{8}|\beth0\b.*(brd|scope)")
"""Devices, addresses, routes and entries. Rules of the firewall are exchanged for those of the new release."""


@contextmanager
def no_path_is_deleted(app: Cluster) -> Iterator[None]:
    """Neither a device nor an address, a route or an entry of ours, on any host, during the block."""
    with ExitStack() as stack:
        monitors = {h: stack.enter_context(monitored(app, h, f"c{h[1:]}")) for h in app.hosts}
        app.all_at_once(lambda host: monitors[host].prove())
        before = app.traces()
        yield
        assert app.traces() == before
        app.all_at_once(lambda host: monitors[host].prove())
        for host, monitor in monitors.items():
            # NOARP: the kernel's own entries for multicast groups, which age after a minute.
            deleted = [
                line
                for line in monitor.deleted()
                if OURS.search(line)
                and not re.search("NOARP|^delete (rule|table|chain|set|map|element)", line)
            ]
            assert deleted == [], host


def proving(app: Cluster, host: str) -> dict[str, tuple[str, str]]:
    """Host name -> what RECORDS and CLAIMS of `members -o wide` say of it."""
    return {
        one["name"]: (one.get("records", ""), one.get("claims", "")) for one in app.netagent(host, "members")
    }


def refusals(app: Cluster, host: str) -> dict[str, int]:
    return dict(app.netagent(host, "status")["refused"])


def must_sign(app: Cluster, host: str) -> bool:
    """True once this host accepts no member that does not sign; before, `status` says null."""
    return app.netagent(host, "status")["allows_unsigned"] is False


def test_scenario_64_hosts_are_upgraded_one_by_one_from_a_release_that_signed_nothing(
    old: Cluster, earlier: Path
) -> None:
    """No packet, no line and no name is lost; `members` shows each step, and what was signed once is never again
    believed unsigned."""
    app = old
    with streams(app, SECONDS, flood=False), names_are_answered(app), no_path_is_deleted(app):
        for done, name in enumerate(app.hosts, 1):
            end(app, [name], "stopped")
            begin(app, [name])
            upgraded = app.hosts[:done]
            expected = {
                host: ("signed", "signed") if host in upgraded else ("unsigned", "unsigned")
                for host in app.hosts
            }
            for host in upgraded:
                app.wait(
                    lambda: proving(app, host) == expected, 15.0, lambda: f"{host}: {proving(app, host)}"
                )
    # Whom h1 has heard signing is on its disk: after a restart, too, what h3 says without a signature does not count.
    end(app, ["h1", "h3"], "stopped")
    with app.agent_of("h1") as h1:
        h1.start_agent()
    start_earlier(app, earlier, "h3")
    app.attach("h3", "unsigned3")
    app.wait(
        lambda: refusals(app, "h1").keys() >= UNSIGNED, 20.0, lambda: f"h1 refused {refusals(app, 'h1')}"
    )
    assert app.ask("c1", "unsigned3").status == "NXDOMAIN"
    assert app.ask("c2", "unsigned3").status == "NXDOMAIN"
    assert app.agents("h1")["h3"] != "alive"
    end(app, ["h3"], "stopped")
    begin(app, ["h3"])
    for container in ("c1", "c2"):
        app.wait(
            lambda: app.finds(container, "unsigned3"), 10.0, f"{container} does not find what h3 signs now"
        )
    # Once all have signed for a minute, each member must, also one that never did (0087).
    for host in app.hosts:
        app.wait(lambda: must_sign(app, host), 120.0, f"{host} still accepts members that do not sign")
