"""The Debian package, built and put on a host with systemd: install, upgrade, remove, purge."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from boot.machine import ROOT
from boot.test_systemd import hosts
from packaging.utils import canonicalize_name

pytestmark = [pytest.mark.lab, pytest.mark.boot, pytest.mark.long, pytest.mark.timeout(400)]


def test_the_package_comes_runs_is_upgraded_and_goes(tmp_path: Path) -> None:
    # Where the machine can see it; its own folders hide some of this machine's.
    package = Path(
        subprocess.run(
            [sys.executable, "packaging/deb.py", "--output", str(tmp_path / "dist")],
            cwd=ROOT, check=True, capture_output=True, text=True, timeout=300,
        ).stdout.strip()
    )  # fmt: skip
    with hosts(tmp_path, 1) as (_, machine):
        machine.write("/etc/netagent/netagent.toml", 'bind = "192.0.2.1"\ntiming = "local"\n')
        Path(f"/proc/{machine.process_id}/root/root/netagent.deb").write_bytes(package.read_bytes())
        machine.run("dpkg", "--install", "/root/netagent.deb")
        assert "in no cluster" in machine.show("netagent.service", "StatusText"), machine.journal()
        assert machine.run("dpkg", "--verify", "netagent") == ""
        assert machine.run("stat", "-c", "%a %G", "/run/netagent/netagent.sock") == "660 netagent\n"
        assert machine.run("stat", "-c", "%a %G", "/run/netagent/netagent-ro.sock") == "660 netagent-ro\n"
        assert "netagent network prune" in machine.run("man", "--pager=cat", "netagent")
        assert "docker.mirror" in machine.run("man", "--pager=cat", "netagent.toml")
        bill = json.loads(machine.run("cat", "/usr/share/doc/netagent/bill-of-materials.cdx.json"))
        named = {
            f"{one['name']} {one['version']}" for one in (*bill["components"], bill["metadata"]["component"])
        }
        assert bill == json.loads(package.with_suffix(".cdx.json").read_text())
        list_them = (
            "import importlib.metadata as m; [print(one.name, one.version) for one in m.distributions()]"
        )
        shipped = machine.run("/usr/lib/netagent/bin/python", "-c", list_them).splitlines()
        assert named == {f"{canonicalize_name(name)} {version}" for name, version in map(str.split, shipped)}
        compiled = machine.run(
            "sh", "-c", "find /usr/lib/netagent -name '*.pyc' | grep -c netagent/daemon/__pycache__/agent[.]"
        )
        assert compiled == "1\n"

        machine.run("netagent", "init")
        machine.run("netagent", "install", "cni")
        before = machine.show("netagent.service", "MainPID"), machine.run("pgrep", "-f", "resolver.process")
        machine.run("dpkg", "--install", "/root/netagent.deb")
        after = machine.show("netagent.service", "MainPID"), machine.run("pgrep", "-f", "resolver.process")
        assert before[0] != after[0]
        assert before[1] == after[1]
        assert "mesh" in machine.run("netagent", "status")

        machine.run("netagent", "leave")
        machine.run("dpkg", "--remove", "netagent")
        assert machine.show("netagent.service", "LoadState") == "not-found"
        assert machine.try_run("test", "-e", "/opt/cni/bin/netagent").returncode == 1
        machine.run("dpkg", "--purge", "netagent")
        left = "ls -d /etc/netagent /etc/netns /usr/lib/netagent /var/lib/netagent /etc/systemd/system/*/netagent*"
        assert machine.try_run("sh", "-c", left).stdout == ""
