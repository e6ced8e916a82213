"""`netagent add`: a bare host with systemd and sshd becomes a member, by one command on another host."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from boot.machine import ROOT, Machine
from boot.test_systemd import hosts
from netlab.lab import Lab
from netlab.programs import Finished

pytestmark = [pytest.mark.lab, pytest.mark.boot, pytest.mark.long, pytest.mark.timeout(600)]

LEFT = (
    "ls -d /usr/lib/netagent /opt/netagent /usr/bin/netagent /usr/local/bin/netagent /var/lib/netagent "
    "/etc/netagent/conf.d /var/tmp/netagent-* /etc/systemd/system/netagent* /opt/cni/bin/netagent 2>/dev/null; "
    "pgrep -af 'netagent[.]resolver'"
)
"""Prints what is left of netagent on a machine."""
CONFIGURATION = 'bind = "192.0.2.1"\ntiming = "local"\n'
SLOW = "tc qdisc add dev {device} root tbf rate 40mbit burst 64kb latency 400ms"
BUSY = 3.0
"""How many times longer it may take on a busy machine."""
TAKES = """
import socket, time
taken = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
taken.bind(("0.0.0.0", 7956))
time.sleep(3600)
"""


def made_package(folder: Path) -> Path:
    build = [sys.executable, "packaging/deb.py", "--output", str(folder)]
    done = subprocess.run(build, cwd=ROOT, check=True, capture_output=True, text=True, timeout=300)
    return Path(done.stdout.strip())


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_package(tmp_path_factory.mktemp("dist"))


class Bare:
    """h1 is a bare machine with systemd and sshd, h2 a member whose ssh has a key for it."""

    def __init__(self, lab: Lab, machine: Machine, folder: Path) -> None:
        self.lab, self.machine, self.folder = lab, machine, folder
        self.program = "netagent"

    def add(self, *options: str) -> Finished:
        command = [self.program, "add", "root@192.0.2.1", *options]
        script = 'PATH=$1:$PATH; echo $$ >"$2"; shift 2; exec "$@"'
        begin = ["sh", "-c", script, "sh", str(self.folder / "bin"), str(self.folder / "process"), *command]
        return self.lab.host("h2").run(begin, timeout_s=240.0)

    @contextlib.contextmanager
    def adding(self, *options: str) -> Iterator[Future[Finished]]:
        """While it runs."""
        (self.folder / "process").unlink(missing_ok=True)
        with ThreadPoolExecutor(1) as pool:
            yield pool.submit(self.add, *options)

    def interrupt(self) -> None:
        """Ctrl-C."""
        number = (self.folder / "process").read_text().strip()
        assert self.lab.host("h2").run(["kill", "-INT", number]).status == 0

    def members(self) -> dict[str, str]:
        done = self.lab.host("h2").run(["netagent", "members", "--json"])
        return {one["name"]: one["agent"] for one in json.loads(done.stdout)["items"]}

    def left(self) -> str:
        return self.machine.try_run("sh", "-c", LEFT).stdout

    def assert_untouched(self) -> None:
        """The machine is as it was, with what the operator wrote; and no invitation is open."""
        assert self.left() == ""
        assert self.machine.run("cat", "/etc/netagent/netagent.toml") == CONFIGURATION
        assert self.machine.show("netagent.service", "LoadState") == "not-found"
        assert {name for name, state in self.members().items() if state != "left"} == {"h2"}
        assert self.lab.host("h2").run(["netagent", "uninvite"]).stdout == "none was open\n"


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Bare]:
    with hosts(tmp_path, 2) as (lab, machine):
        with lab.changing("h2") as h2:
            h2.start_agent()
        assert lab.host("h2").run(["netagent", "init"]).status == 0
        key = tmp_path / "key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        ssh = tmp_path / "bin" / "ssh"
        ssh.parent.mkdir()
        options = (
            f"-F none -i {key} -o UserKnownHostsFile={tmp_path}/known -o StrictHostKeyChecking=accept-new"
        )
        ssh.write_text(f'#!/bin/sh\nexec /usr/bin/ssh {options} "$@"\n')
        ssh.chmod(0o755)
        machine.run("sh", "-c", "ssh-keygen -A && mkdir -p -m 700 /root/.ssh /run/sshd")
        machine.write("/root/.ssh/authorized_keys", key.with_suffix(".pub").read_text())
        machine.write("/etc/netagent/netagent.toml", CONFIGURATION)
        machine.run("systemd-run", "--quiet", "--unit=door", "/usr/sbin/sshd", "-D", "-e")
        machine.wait("ss -Hltn 'sport = :22' | grep -q .", 30.0)
        yield Bare(lab, machine, tmp_path)


def test_a_checkout_makes_a_bare_host_a_member(bare: Bare) -> None:
    done = bare.add("--name", "db1", "--cni", "--json")
    assert done.status == 0, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["name"], answer["address"], answer["created"]) == ("db1", "192.0.2.1", True)
    print(done.stderr)
    assert answer["took_s"] < 60 * BUSY, "the goal is two hosts in 60 s"
    assert bare.members() == {"h2": "alive", "db1": "alive"}
    assert bare.machine.run("systemctl", "is-active", "netagent.service") == "active\n"
    assert bare.machine.try_run("test", "-x", "/opt/cni/bin/netagent").returncode == 0
    assert bare.machine.try_run("sh", "-c", "ls -d /var/tmp/netagent-*").stdout == ""
    again = bare.add("--name", "db1", "--json")
    assert again.status == 0, again.stderr
    assert json.loads(again.stdout)["created"] is False
    assert bare.machine.type("netagent network create app").returncode == 0
    assert bare.machine.type("netagent doctor").returncode == 0


def test_a_program_of_pip_in_an_environment_makes_one_too(bare: Bare, tmp_path: Path) -> None:
    """From a wheel, in a folder that the other host does not get."""
    home = tmp_path / "some where"
    quiet = ["--quiet", "--disable-pip-version-check"]
    for command in (
        ["/usr/bin/python3", "-m", "venv", str(home)],
        [
            str(home / "bin/pip"),
            "wheel",
            *quiet,
            "--no-deps",
            "--wheel-dir",
            str(tmp_path / "wheel"),
            str(ROOT),
        ],
    ):
        subprocess.run(command, check=True, capture_output=True, timeout=300)
    [wheel] = (tmp_path / "wheel").iterdir()
    subprocess.run([home / "bin/pip", "install", *quiet, wheel], check=True, capture_output=True, timeout=300)
    bare.program = str(home / "bin/netagent")
    done = bare.add()
    assert done.status == 0, done.stderr
    assert sorted(bare.members().values()) == ["alive", "alive"]
    assert bare.machine.run("readlink", "/usr/local/bin/netagent") == "/opt/netagent/bin/netagent\n"


def test_what_is_refused_is_refused_before_anything_is_changed(bare: Bare, tmp_path: Path) -> None:
    taken = bare.add("--name", "h2")
    assert taken.status == 4
    assert "has a host h2 already; choose another name with --name" in taken.stderr
    bare.machine.run("sh", "-c", "mkdir /run/small; mount -t tmpfs -o size=30m tmpfs /var/tmp")
    small = bare.add()
    assert small.status == 4, small.stderr
    assert "/var/tmp has 30 MiB of free space" in small.stderr
    bare.machine.run("umount", "/var/tmp")
    program = "#!/bin/sh\n[ $1 = -m ] && echo riscv64 || exec /usr/bin/uname.real $1\n"
    bare.machine.run("mv", "/usr/bin/uname", "/usr/bin/uname.real")
    bare.machine.write("/usr/bin/uname", program)
    bare.machine.run("chmod", "755", "/usr/bin/uname")
    other = bare.add()
    assert other.status == 4, other.stderr
    assert "its architecture is riscv64" in other.stderr
    bare.machine.run("mv", "/usr/bin/uname.real", "/usr/bin/uname")
    bare.machine.run("mv", "/usr/bin/docker", "/usr/bin/docker.away")
    without = bare.add("--docker")
    assert without.status == 4
    assert "it has no program docker; install it there first, or leave out --docker" in without.stderr
    bare.machine.run("systemd-run", "--quiet", "--unit=other", "python3", "-c", TAKES)
    bare.machine.wait("ss -Hlun 'sport = :7956' | grep -q .", 30.0)
    refused = bare.add()
    assert refused.status == 4, refused.stderr
    assert "the doctor of root@192.0.2.1 finds" in refused.stderr
    assert "7956" in refused.stderr
    bare.assert_untouched()


def test_a_disk_that_fills_up_while_the_package_is_installed(bare: Bare, package: Path) -> None:
    bare.machine.run(
        "mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", "/usr/share/bash-completion/completions"
    )
    full = bare.add("--package", str(package))
    assert full.status == 5, full.stderr
    assert "could not be installed on root@192.0.2.1: " in full.stderr
    assert "No space left on device" in full.stderr
    bare.assert_untouched()


def test_a_join_that_fails_is_undone(bare: Bare, package: Path) -> None:
    bare.lab.block("h2", 7957)
    closed = bare.add("--name", "db1", "--package", str(package))
    assert closed.status == 5, closed.stderr
    assert "could not join" in closed.stderr
    assert "open UDP and TCP 7956 and 7957" in closed.stderr
    bare.assert_untouched()


def test_a_join_that_is_refused_is_undone(bare: Bare) -> None:
    """By the member: the invitation is revoked in the moment in between."""
    stop = ["sh", "-c", "while :; do netagent uninvite -o name | grep -qx 1 && exit; done"]
    with bare.adding() as future, ThreadPoolExecutor(1) as pool:
        revoking = pool.submit(bare.lab.host("h2").run, stop, timeout_s=240.0)
        refused = future.result()
        assert revoking.result().status == 0
    assert refused.status == 4, refused.stderr
    assert "could not join: " in refused.stderr
    bare.assert_untouched()


def test_a_path_that_carries_nothing_is_undone(bare: Bare) -> None:
    bare.lab.block("h2", 4799)
    closed = bare.add()
    assert closed.status == 5, closed.stderr
    assert "4799" in closed.stderr
    assert "taking back: its membership" in closed.stderr
    bare.assert_untouched()


@pytest.mark.parametrize("step", ["copied", "installing netagent", "joining the cluster"])
def test_ctrl_c_is_undone(bare: Bare, step: str) -> None:
    device = "eth0"
    if step == "copied":
        bare.lab.host("h2").must(["sh", "-c", SLOW.format(device=device)])
    words = {
        "copied": "test -e /var/tmp/netagent-add-*/package",
        "installing netagent": "test -e /opt/netagent/lib",
        "joining the cluster": "test -e /var/lib/netagent/keyring",
    }
    with bare.adding() as future:
        bare.machine.wait(words[step], 120.0)
        bare.interrupt()
        ended = future.result()
    assert ended.status == 130, ended.stderr
    assert "taking back: " in ended.stderr
    assert "NOT taken back" not in ended.stderr
    bare.assert_untouched()


def test_ssh_that_is_lost_while_copying_leaves_nothing_and_is_said(bare: Bare) -> None:
    bare.lab.host("h2").must(["sh", "-c", SLOW.format(device="eth0")])
    with bare.adding() as future:
        bare.machine.wait("test -s /var/tmp/netagent-add-*/package", 120.0)
        # In the machine's own process namespace; the script that copies goes on, and finds its input ended.
        bare.machine.run("pkill", "-KILL", "^sshd")
        lost = future.result()
    assert lost.status == 5, lost.stderr
    assert "the connection to root@192.0.2.1 was lost" in lost.stderr
    assert "NOT taken back: the copied package" in lost.stderr
    assert "type: ssh root@192.0.2.1 'rm -rf /var/tmp/netagent-add-" in lost.stderr
    bare.machine.wait("! ls -d /var/tmp/netagent-*", 10.0)
    bare.assert_untouched()
