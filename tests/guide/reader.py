"""A reader who follows a page: each command that it shows is typed on a host of the lab, in order.

The lab has what the pages take for granted: three hosts in one cluster with Docker and Podman, and under the names of
the images that the pages use an image with a web server. What a page does not say, such as which container runs
already, is in its row of `pages.py`.
"""

from __future__ import annotations

import json
import os
import re
import select
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from guide.shown import Shown, commands, shape
from lab.harness import Cluster
from netlab import programs
from netlab.host import Host
from netlab.lab import Lab
from netlab.programs import Finished
from netlab.runtimes import image

ROOT = Path(__file__).parents[2]
IMAGES = ("nginx", "alpine", "shop", "shop:next", "jobs")
SERVES = (
    "trap 'exit 0' TERM; mkdir -p /www; echo shop >/www/index.html; echo ok >/www/healthz; "
    "for port in 80 8080; do httpd -p $port -h /www; done; sleep 2147483647 & wait"
)
HOME = "/run/reader"
"""The reader's folder on each host."""
PRELUDE = f'sudo() {{ "$@"; }}; mkdir -p {HOME} && cd {HOME} || exit 99\n'
"""The lab's hosts have no sudo: the reader is root."""
SETTLES_S = 15.0
"""Until a command shows what the page shows: what it depends on takes up to a few seconds."""
STARTS_S = 40.0
"""Until what lasts has begun: an agent starts in a second, on a busy machine in many."""
ENDS = {
    "docker": "docker ps -aq | xargs -r docker rm -f",
    "podman": "podman rm -fa -t 0",
    "attach": "for one in $(netagent endpoints --local -q); do netagent detach $one --drain 0s; done",
    "ip netns": (
        "for one in $(ip netns list | cut -d' ' -f1); do "
        "ip netns pids $one | xargs -r kill -9; ip netns del $one; done"
    ),
    "token": "for one in $(netagent token ls -q); do netagent token revoke $one; done",
    "--host": "netagent undrain --host",
    "": f"rm -rf {HOME}",
}
"""What ends that which a page has begun on a host, by a word of what was typed there: each takes a moment."""

Action = Callable[["Reader"], object]


@dataclass(frozen=True, slots=True)
class Typed:
    """How a command is typed, where that is not on h1, with success, and with nothing done before."""

    on: str = "h1"
    inside: str = ""
    """The container of that host in which it is typed."""
    before: Action | None = None
    answer: Callable[[Reader], str] | None = None
    """What is typed at the terminal when it asks."""
    status: int = 0
    shows: str = ""
    """A part of the output that the page promises in its text."""
    lasts_until: Callable[[Reader, str], bool] | None = None
    """It does not end by itself: it is interrupted when this is true of what it has printed."""
    stays: bool = False
    """It goes on until the page ends."""


@dataclass(frozen=True, slots=True)
class Page:
    """A page of the documents, and what it takes for granted."""

    before: Action | None = None
    typed: Mapping[str, Typed] = field(default_factory=dict)
    replaced: Mapping[str, str] = field(default_factory=dict)
    """What stands on the page for a thing of the reader's, and what that is in the lab."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Commands that are not typed, each with the reason."""
    after: Action | None = None
    is_long: bool = False
    """It takes a host away, and is one of the long tests."""


class Reader(Cluster):
    """Three hosts, and a reader who is root on them."""

    def __init__(self, lab: Lab, pool: ThreadPoolExecutor) -> None:
        super().__init__(lab, pool)
        self.printed: dict[str, str] = {}
        """What the commands of this page have printed."""
        self._running: list[subprocess.Popen[str]] = []
        self._typed_on = dict.fromkeys(self.hosts, " ".join(ENDS))
        """All that was typed on a host since it was cleared."""

    # ---- a page

    def follow(self, name: str, page: Page) -> None:
        """Type all that it shows. AssertionError names the command that does something else than shown."""
        self.printed = {}
        try:
            if page.before:
                page.before(self)
            for shown in commands((ROOT / name).read_text(encoding="utf-8")):
                if not shown.is_pattern and shown.typed not in page.left_out:
                    begun = time.monotonic()
                    self._type(name, shown, page)
                    print(f"{time.monotonic() - begun:5.1f} s  {shown.typed}")
            if page.after:
                page.after(self)
        finally:
            for process in self._running:
                interrupt(process)
            self._running.clear()

    def _type(self, name: str, shown: Shown, page: Page) -> None:
        how = page.typed.get(shown.typed, Typed())
        line, output = shown.typed, shown.output
        for old, new in page.replaced.items():
            line, output = line.replace(old, new), output.replace(old, new)
        if how.before:
            how.before(self)
        where = f"{name}:{shown.line}: `{shown.typed}` on {how.on}"
        if how.stays or how.lasts_until:
            self.printed[shown.typed] = self._begin(where, line, how)
            return
        expected = shape(output) if output else re.compile(".*", re.DOTALL)
        until = time.monotonic() + SETTLES_S
        while True:
            done = self._run(line, how)
            assert "Traceback" not in done.stderr, f"{where}: {done.stderr}"
            is_shown = expected.fullmatch(done.stdout) or expected.fullmatch(done.stdout + done.stderr)
            if done.status == how.status and how.shows in done.stdout and is_shown:
                break
            if not output or time.monotonic() > until:
                page_says = f"\nthe page shows:\n{output}" if output else ""
                raise AssertionError(
                    f"{where} ended with {done.status}, not {how.status}:\n{done.stdout}{done.stderr}{page_says}"
                )
            time.sleep(0.1)
        self.printed[shown.typed] = done.stdout

    def _run(self, line: str, how: Typed) -> Finished:
        local, piped, remote = line.partition(" | ssh ")
        if piped:  # the lab's hosts run no sshd; what the other host gets is the same
            host, _, command = remote.partition(" ")
            first = self._run(local, how)
            return self.shell(host, command, stdin=first.stdout) if first.status == 0 else first
        if how.answer:
            return self._at_terminal(line, how.on, how.answer(self))
        return self.shell(how.on, line, inside=how.inside)

    def _at_terminal(self, line: str, host: str, answer: str) -> Finished:
        """Typed at a terminal, with the answer once the command asks: what is typed before may be thrown away."""
        script = f"exec script -qec {shlex.quote(line.removeprefix('sudo '))} /dev/null"
        process = subprocess.Popen(
            self._entering(host, script),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=programs.environment(),
            start_new_session=True,
        )
        with process:
            try:
                assert process.stdout is not None
                asked = b""
                while not asked.endswith((b": ", b"] ")):
                    assert select.select([process.stdout], [], [], SETTLES_S)[0], f"`{line}` asks nothing"
                    asked += os.read(process.stdout.fileno(), 4096) or b"ended: "
                rest, _ = process.communicate(answer, timeout=60)
            finally:
                programs.kill_group(process)
        return Finished((line,), process.returncode, asked.decode() + rest, "")

    def _begin(self, where: str, line: str, how: Typed) -> str:
        """Begin what lasts; what it has printed when it is interrupted, or at once if it stays."""
        log = self.lab.folder / f"reader-{len(self._running)}.log"
        with log.open("w") as sink:
            process = subprocess.Popen(
                self._entering(how.on, f"exec {line.removeprefix('sudo ')}", how.inside),
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                text=True,
                env=programs.environment(),
                start_new_session=True,
            )
        self._running.append(process)
        if how.lasts_until:
            is_enough = how.lasts_until
            self.wait(
                lambda: is_enough(self, log.read_text()) or process.poll() is not None,
                STARTS_S,
                lambda: f"{where} printed {log.read_text()}",
            )
            assert process.poll() is None, f"{where} ended with {process.returncode}: {log.read_text()}"
            if not how.stays:
                self._running.remove(process)
                interrupt(process)
        return log.read_text()

    # ---- what a page's row needs

    def shell(self, host: str, line: str, *, inside: str = "", stdin: str = "") -> Finished:
        """A line of a shell on a host, or in a container of it."""
        return programs.run(self._entering(host, line, inside), stdin=stdin, timeout_s=60.0)

    def must(self, host: str, line: str, *, inside: str = "", stdin: str = "") -> str:
        """What a line has printed that must succeed."""
        done = self.shell(host, line, inside=inside, stdin=stdin)
        assert done.status == 0, f"`{line}` on {host}: {done.stdout}{done.stderr}"
        return done.stdout

    def _entering(self, host: str, line: str, inside: str = "") -> list[str]:
        self._typed_on[host] += line
        within = ["ip", "netns", "exec", inside] if inside else []
        return self.lab.host(host).entering([*within, "bash", "-c", PRELUDE + line])

    def attach(self, host: str, name: str, *options: str, command: Sequence[str] = ()) -> dict[str, Any]:
        """As Cluster does it."""
        self._typed_on[host] += "attach"
        return super().attach(host, name, *options, command=command)

    def serves(self, host: str, name: str, port: int, *options: str) -> None:
        """A container with a web server."""
        command = ("busybox", "sh", "-c", f"mkdir -p /run/www && exec busybox httpd -f -p {port} -h /run/www")
        self.attach(host, name, *options, command=command)
        self.await_listening(name, port)

    def await_docker_network(self, host: str, name: str) -> None:
        listed = "docker network ls --format '{{.Name}}'"
        self.wait(
            lambda: name in self.must(host, listed).split(), 15.0, f"no network {name} in Docker on {host}"
        )

    def alive(self, host: str) -> list[str]:
        """The hosts whose agents this one takes for alive."""
        done = self.shell(host, "netagent members --json")
        listed = json.loads(done.stdout)["items"] if done.status == 0 else []
        return [one["name"] for one in listed if one["agent"] == "alive"]

    # ---- from page to page

    def begin(self) -> None:
        """Everything as no page has touched it: three members, no container, no network."""
        self.lab.heal()
        for host in self.hosts:
            if not self.lab.host(host).has_power:
                self.lab.power_on(host)
            with self.lab.changing(host) as changing:
                if not changing.agent_running:
                    changing.start_agent()
        self.join_again()
        self.clear()
        for network in self.netagent("h1", "network", "ls"):
            self.netagent("h1", "network", "rm", network["name"], "--force")
        self.wait(lambda: all(self.all_at_once(self._is_empty)), 20.0, "something of the last page is left")

    def clear(self) -> None:
        """End all containers."""
        for name, _, _ in self.lab.overview().containers:
            self.lab.remove_container(name, kill=True)
        self.all_at_once(self._clear)

    def _clear(self, host: str) -> None:
        ends = "; ".join(command for word, command in ENDS.items() if word in self._typed_on[host])
        self.lab.host(host).must(["bash", "-c", ends], timeout_s=60.0)
        self._typed_on[host] = ""

    def _is_empty(self, host: str) -> bool:
        return not self.netagent(host, "network", "ls")

    def join_again(self) -> None:
        """Hosts that are in no cluster join the others."""
        if all(sorted(self.alive(host)) == self.hosts for host in self.hosts):
            return
        members = {host: self.try_netagent(host, "members", "-q") for host in self.hosts}
        inside = [host for host, done in members.items() if done.status == 0 and done.stdout.strip()]
        if not inside:
            self.netagent("h1", "init")
            inside = ["h1"]
        outside = [host for host in self.hosts if host not in inside]
        for host in outside:
            token = self.must(inside[0], "netagent invite")
            self.must(host, "netagent join --token-file -", stdin=token)
        self.wait(
            lambda: all(sorted(self.alive(host)) == self.hosts for host in self.hosts), 30.0, "no cluster"
        )


def interrupt(process: subprocess.Popen[str]) -> None:
    """As Ctrl-C does."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        programs.kill_group(process)
        process.wait(10)


def load_images(host: Host) -> None:
    """The images that the pages use, for Docker and Podman."""
    archive = "/run/guide-image.tar"
    host.path(archive).write_bytes(image())
    changes = (
        f"--change {shlex.quote('CMD ' + json.dumps(['sh', '-c', SERVES]))} --change 'ENV PATH=/sbin:/bin'"
    )
    runs = f"--change {shlex.quote('ENTRYPOINT ' + json.dumps(['sh', '-c', SERVES]))} --change 'ENV PATH=/sbin:/bin'"
    host.must(["sh", "-c", f"docker import {runs} {archive} traefik"], timeout_s=60.0)
    for runtime in ("docker", "podman"):
        names = " && ".join(f"{runtime} tag nginx {name}" for name in IMAGES[1:])
        host.must(["sh", "-c", f"{runtime} import {changes} {archive} nginx && {names}"], timeout_s=60.0)
    host.path(archive).unlink()


@contextmanager
def readers(lab: Lab) -> Iterator[Reader]:
    with ThreadPoolExecutor(8) as pool:
        reader = Reader(lab, pool)
        reader.all_at_once(lambda host: load_images(lab.host(host)))
        yield reader
