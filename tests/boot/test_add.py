"""`netagent add`: a bare host with systemd and sshd becomes a member, by one command on another host."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from boot.machine import ROOT, Machine
from boot.test_systemd import hosts
from netlab.lab import Lab
from netlab.programs import Finished

pytestmark = [pytest.mark.lab, pytest.mark.boot, pytest.mark.long, pytest.mark.timeout(600)]

LEFT = "ls -d /usr/lib/netagent /usr/bin/netagent /var/lib/netagent /etc/netagent/conf.d/name.toml /tmp/tmp.*/package"
TAKES = """
import socket, time
taken = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
taken.bind(("0.0.0.0", 7956))
time.sleep(3600)
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "packaging/deb.py", "--output", str(folder)]
    done = subprocess.run(build, cwd=ROOT, check=True, capture_output=True, text=True, timeout=300)
    return Path(done.stdout.strip())


class Bare:
    """h1 is a bare machine with systemd and sshd, h2 a member whose ssh has a key for it."""

    def __init__(self, lab: Lab, machine: Machine, folder: Path, package: Path) -> None:
        self.lab, self.machine, self._folder, self._package = lab, machine, folder, package

    def add(self, *options: str) -> Finished:
        command = ["netagent", "add", "root@192.0.2.1", "--package", str(self._package), *options]
        path = f"{self._folder}:$PATH"
        return self.lab.host("h2").run(
            ["sh", "-c", f'PATH={path}; exec "$@"', "sh", *command], timeout_s=240.0
        )

    def members(self) -> dict[str, str]:
        done = self.lab.host("h2").run(["netagent", "members", "--json"])
        return {one["name"]: one["agent"] for one in json.loads(done.stdout)["items"]}


@pytest.fixture
def bare(tmp_path: Path, package: Path) -> Iterator[Bare]:
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
        machine.write("/etc/netagent/netagent.toml", 'bind = "192.0.2.1"\ntiming = "local"\n')
        machine.run("systemd-run", "--quiet", "--unit=door", "/usr/sbin/sshd", "-D", "-e")
        machine.wait("ss -Hltn 'sport = :22' | grep -q .", 30.0)
        yield Bare(lab, machine, ssh.parent, package)


def test_one_command_makes_a_bare_host_a_member(bare: Bare) -> None:
    done = bare.add("--name", "db1", "--cni", "--json")
    assert done.status == 0, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["name"], answer["address"], answer["created"]) == ("db1", "192.0.2.1", True)
    assert answer["took_s"] < 60, "the goal is two hosts in 60 s"
    assert bare.members() == {"h2": "alive", "db1": "alive"}
    assert bare.machine.run("systemctl", "is-active", "netagent.service") == "active\n"
    assert bare.machine.try_run("test", "-x", "/opt/cni/bin/netagent").returncode == 0
    again = bare.add("--name", "db1", "--json")
    assert again.status == 0, again.stderr
    assert json.loads(again.stdout)["created"] is False
    bare.machine.run("netagent", "network", "create", "app")


def test_what_fails_is_taken_back_and_said(bare: Bare) -> None:
    taken = bare.add("--name", "h2")
    assert taken.status == 4
    assert "has a host h2 already; choose another name with --name" in taken.stderr
    assert bare.machine.try_run("sh", "-c", LEFT).stdout == ""
    bare.lab.block("h2", 7957)
    closed = bare.add("--name", "db1")
    assert closed.status == 5, closed.stderr
    assert "could not join" in closed.stderr
    assert "open UDP and TCP 7956 and 7957" in closed.stderr
    assert bare.machine.try_run("sh", "-c", LEFT).stdout == ""
    assert bare.machine.show("netagent.service", "LoadState") == "not-found"
    assert bare.members() == {"h2": "alive"}


def test_a_host_that_its_doctor_finds_unfit_is_left_alone(bare: Bare) -> None:
    bare.machine.run("systemd-run", "--quiet", "--unit=other", "python3", "-c", TAKES)
    bare.machine.wait("ss -Hlun 'sport = :7956' | grep -q .", 30.0)
    refused = bare.add()
    assert refused.status == 4, refused.stderr
    assert "the doctor of root@192.0.2.1 finds" in refused.stderr
    assert "7956" in refused.stderr
    assert bare.machine.try_run("sh", "-c", LEFT).stdout == ""
