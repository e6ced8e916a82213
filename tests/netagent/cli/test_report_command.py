"""`netagent report`: what is in the archive, and what is not."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from netagent.cli import report_command
from netagent.cli.main import main
from netagent.cli.report_command import MAX_ENTRY_BYTES, without_secrets
from netagent.errors import FailedError


@pytest.fixture(autouse=True)
def few_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_command, "_KERNEL", (("echo", "seen"), ("no-such-program",)))
    monkeypatch.setattr(report_command, "_FILES", ("/proc/mounts", "/no/such/file"))
    monkeypatch.setattr(report_command, "_doctor", lambda _client: b"doctor")


def content(archive: Path) -> dict[str, str]:
    with tarfile.open(archive) as tar:
        found = {one.name.removeprefix("netagent-report/"): tar.extractfile(one) for one in tar}
        return {name: file.read().decode() for name, file in found.items() if file is not None}


def test_without_an_agent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive = tmp_path / "r.tar.gz"
    assert main(["report", "--file", str(archive), "--socket", str(tmp_path / "none"), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    entries = content(archive)
    assert len(entries) == answer["entry_count"]
    assert entries["host/echo seen.txt"] == "seen\n"
    assert "cgroup" in entries["host/proc/mounts"]
    assert entries["doctor.txt"] == "doctor"
    causes = {one["entry"]: one["cause"] for one in answer["missing"]}
    assert "the socket does not exist" in causes["status.json"]
    assert causes["host/no-such-program.txt"] == "there is no program no-such-program"
    assert "No such file" in causes["host/no/such/file"]
    assert all(f"missing: {entry}" in entries["manifest.txt"] for entry in causes)
    assert archive.stat().st_mode & 0o777 == 0o600


def test_labels_have_no_values() -> None:
    answer = {"items": [{"name": "web", "labels": {"traefik.users": "anna:hash"}, "links": [{"labels": {}}]}]}
    assert without_secrets(answer) == {
        "items": [{"name": "web", "labels": {"traefik.users": "left out"}, "links": [{"labels": {}}]}]
    }
    assert b"hash" not in report_command._json(answer)


def test_checks_have_no_commands() -> None:
    answer = {
        "checks": ["'exec:mysqladmin -psecret ping' fall=2", "http:80/ok?key=secret", "http:80/ok", "tcp:1"]
    }
    assert without_secrets({"items": [answer]}) == {
        "items": [{"checks": ["exec:…", "http:80/ok?…", "http:80/ok", "tcp:1"]}]
    }


@pytest.mark.usefixtures("served")
def test_the_agent_s_answers(tmp_path: Path) -> None:
    archive = tmp_path / "r.tar.gz"
    at = ["--socket", str(tmp_path / "agent.sock")]
    assert main(["attach", "netns:web", "--network", "app", *at]) == 0
    assert main(["report", "--file", str(archive), *at]) == 0
    assert json.loads(content(archive)["endpoints.json"])["items"][0]["name"] == "web"
    assert json.loads(content(archive)["events.json"])["items"][0]["subject"] == "web"


@pytest.mark.parametrize("is_link", [True, False])
def test_what_is_there_is_not_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], *, is_link: bool
) -> None:
    archive, other = tmp_path / "r.tar.gz", tmp_path / "other"
    other.write_text("kept")
    if is_link:
        archive.symlink_to(other)
    else:
        archive.write_text("kept")
    assert main(["report", "--file", str(archive)]) == 4
    assert "exists; remove it, or name another file" in capsys.readouterr().err
    assert archive.read_text() == other.read_text() == "kept"


def test_a_report_that_fails_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def add(*_: object) -> None:
        raise FailedError("no space")

    monkeypatch.setattr(report_command, "_add", add)
    assert main(["report", "--file", str(tmp_path / "r.tar.gz")]) == 5
    assert list(tmp_path.iterdir()) == []


def test_a_program_is_bounded_in_time_and_output(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_command, "COMMAND_S", 1.0)
    output = report_command._run("sh", "-c", "sleep 600; echo never")
    assert output == b"\n(ended after 1 s)\n"
    assert (
        len(report_command._run("head", "-c", str(2 * MAX_ENTRY_BYTES), "/dev/zero")) == MAX_ENTRY_BYTES + 1
    )
