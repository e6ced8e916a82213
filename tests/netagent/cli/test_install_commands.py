"""`netagent install`, `uninstall` and `completion` as people type them."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from netagent.cli.main import main


def test_docker_comes_and_goes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["install", "docker", "--root", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["ACTION", "FILE"]
    assert lines[1].split() == ["wrote", "/etc/netagent/conf.d/docker.toml"]
    assert lines[-1].startswith("      `docker run --network")
    assert main(["uninstall", "docker", "--root", str(tmp_path), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["files"] == [{"action": "removed", "path": "/etc/netagent/conf.d/docker.toml"}]
    assert answer["commands"] == []
    assert main(["uninstall", "docker", "--root", str(tmp_path)]) == 0
    assert "has not written anything here" in capsys.readouterr().out


def test_a_foreign_file_exits_4(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "opt/cni/bin").mkdir(parents=True)
    (tmp_path / "opt/cni/bin/netagent").write_text("other")
    assert main(["install", "cni", "--root", str(tmp_path)]) == 4
    assert "/opt/cni/bin/netagent; move it away" in capsys.readouterr().err


def test_names_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["install", "cni", "--root", str(tmp_path), "-o", "name"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "/opt/cni/bin/netagent"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_commands_and_options(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for word in ("network", "disconnect", "leave-on-shutdown", "uninstall"):
        assert word in script


def test_bash_completes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["completion", "bash"]) == 0
    script = tmp_path / "completion"
    script.write_text(capsys.readouterr().out)
    program = (
        f"source {script}; COMP_WORDS=(netagent network conn); COMP_CWORD=2; "
        "$(complete -p netagent | sed 's/.*-F \\([^ ]*\\).*/\\1/'); echo \"${COMPREPLY[@]}\""
    )
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True, timeout=20)
    assert done.stdout == "connect\n"


def completed(tmp_path: Path, words: str, answer: str, *, ends: str = "") -> str:
    """Return what bash offers after these words, if each list of the agent prints `answer`."""
    assert subprocess.run(["bash", "-n", tmp_path / "completion"], check=False, timeout=30).returncode == 0
    (tmp_path / "names").write_text(answer)
    program = tmp_path / "netagent"
    program.write_text(f'#!/bin/sh\necho "$*" >> {tmp_path}/asked\ncat {tmp_path}/names\n{ends}\n')
    program.chmod(0o755)
    script = (
        f"source {tmp_path}/completion; COMP_WORDS=({words} ''); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); "
        "$(complete -p netagent | sed 's/.*-F \\([^ ]*\\).*/\\1/'); printf '%s\\n' \"${COMPREPLY[@]}\""
    )
    done = subprocess.run(
        ["bash", "-c", script],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
    )
    assert done.stderr == ""
    return done.stdout


@pytest.fixture
def bash_script(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    assert main(["completion", "bash"]) == 0
    (tmp_path / "completion").write_text(capsys.readouterr().out)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        ("netagent detach", "endpoints --local -o name"),
        ("netagent endpoints --network", "network ls -o name"),
        ("netagent endpoints --host", "members -o name"),
        ("netagent endpoints --service", "services --local -o name"),
        ("netagent token revoke", "token ls -o name"),
        ("netagent network rm", "network ls -o name"),
        ("netagent service set", "services --local -o name"),
    ],
)
def test_bash_completes_names_that_the_agent_knows(bash_script: Path, words: str, asked: str) -> None:
    assert completed(bash_script, words, "web\ndb.shop\nweb\n").split() == ["db.shop", "web"]
    assert asked in (bash_script / "asked").read_text().splitlines()


def test_names_that_a_shell_would_expand_are_not_offered(bash_script: Path) -> None:
    harm = "$(touch harm)\n`touch harm`\n*\n-rf\na;touch harm\na b\n~root\n\x1b[2J\n${HOME}\nweb\n"
    assert completed(bash_script, "netagent detach", harm) == "web\n"
    assert not (bash_script / "harm").exists()


def test_completion_is_silent_while_the_agent_is_away(bash_script: Path) -> None:
    assert (
        completed(bash_script, "netagent detach", "", ends="echo netagent: no agent >&2; exit 3").strip()
        == ""
    )
