"""`netagent install`, `uninstall` and `completion` as people type them."""

from __future__ import annotations

import json
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
