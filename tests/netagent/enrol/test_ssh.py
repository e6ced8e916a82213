"""Scripts on another host, over a program that stands for ssh and runs them here."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from netagent.enrol import ssh
from netagent.enrol.ssh import ScriptError, connected
from netagent.errors import FailedError, InputError

SSH = """#!/bin/sh
echo "$@" >>"$(dirname "$0")/calls"
while [ "$1" != -- ]; do shift; done
shift 2
exec sh -c "exec $1"
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    program(tmp_path, "ssh", SSH)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path


def program(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    (folder / name).chmod(0o755)


def test_words_and_input_reach_the_script_as_they_are(folder: Path) -> None:
    words = ["a b", "$HOME", "'; touch /tmp/never", '"', "-n", "ü"]
    with connected("root@h2", folder) as remote:
        said = remote.run('for word; do printf "%s\\n" "$word"; done; cat', *words, stdin=b"\0secret\n")
    assert said == "\n".join(words).encode() + b"\n\0secret\n"
    assert b"secret" not in (folder / "calls").read_bytes()


def test_a_status_is_an_error_with_the_last_line_that_it_wrote(folder: Path) -> None:
    with connected("h2", folder) as remote:
        with pytest.raises(ScriptError, match="no space") as raised:
            remote.run("echo out; echo first >&2; echo no space >&2; exit 3")
        assert (raised.value.status, raised.value.output) == (3, b"out\n")
        assert remote.run("echo out; exit 3", may_end=(0, 3)) == b"out\n"


def test_ssh_itself_fails(folder: Path) -> None:
    program(folder, "ssh", "#!/bin/sh\necho 'Permission denied (publickey).' >&2; exit 255\n")
    with (
        connected("root@h2", folder) as remote,
        pytest.raises(FailedError, match="Permission denied") as raised,
    ):
        remote.run("true")
    assert raised.value.hint == "`ssh root@h2` must work"


def test_what_never_ends_is_ended(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh, "MAX_OUTPUT_BYTES", 100_000)
    with connected("h2", folder) as remote:
        with pytest.raises(FailedError, match="answers without end"):
            remote.run("exec yes")
        began_s = time.monotonic()
        with pytest.raises(FailedError, match=r"did not answer within 0\.5 s"):
            remote.run("exec sleep 600", within_s=0.5)
        assert time.monotonic() - began_s < 60


@pytest.mark.parametrize(("sudo", "becomes"), [("exit 0", True), ("exit 1", False)])
def test_an_account_becomes_root_without_a_password_or_not_at_all(
    folder: Path, *, sudo: str, becomes: bool
) -> None:
    program(folder, "id", "#!/bin/sh\necho 1000\n")
    program(folder, "sudo", f'#!/bin/sh\n[ $2 = true ] && {sudo}; shift; echo as root; exec "$@"\n')
    with connected("anna@h2", folder) as remote:
        if becomes:
            remote.learn_how_to_be_root()
            assert remote.run("echo here") == b"as root\nhere\n"
        else:
            with pytest.raises(FailedError, match="sudo would ask for a password"):
                remote.learn_how_to_be_root()


@pytest.mark.parametrize(
    "where",
    [
        "", "root@", "-oProxyCommand=touch /tmp/never", "-oProxyCommand=x", "-x@h2", "root@-oProxyCommand=x",
        "root@h 2", "root@$(id)", "root@h2;id", "`id`@h2", "root@h2|id", "root@h2\nid", "root@h2\x1b[2J", "root@'h2'",
        "root@h2&", "ssh://-x@h2", "root@" + "h" * 300,
    ],
)  # fmt: skip
def test_what_is_no_host_does_not_reach_ssh(folder: Path, where: str) -> None:
    with pytest.raises(InputError, match="is no host"), connected(where, folder):
        pass
    assert not (folder / "calls").exists()


@pytest.mark.parametrize(
    "where", ["h2", "root@h2", "anna@corp.example@h2.example.net", "root@2001:db8::1", "root@fe80::1%eth0",
              "ssh://root@h2:2222", "ssh://root@[2001:db8::1]:22"],
)  # fmt: skip
def test_a_host_as_ssh_knows_it(folder: Path, where: str) -> None:
    with connected(where, folder) as remote:
        assert remote.run("echo here") == b"here\n"


def test_a_host_that_writes_without_end_to_either_stream_costs_little(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connected("h2", folder) as remote, pytest.raises(ScriptError, match=r"^the end$") as raised:
        remote.run("head -c 50000000 /dev/zero | tr '\\0' x >&2; echo >&2; echo the end >&2; exit 1")
    assert len(raised.value.message) < 500


def test_what_was_sent_is_told_while_it_goes(folder: Path) -> None:
    told: list[int] = []
    with (folder / "package").open("w+b") as file, connected("h2", folder) as remote:
        file.truncate(3_000_000)
        remote.run(
            "head -c 1000000 >/dev/null; sleep 1.5; cat >/dev/null", stdin=file, each_second=told.append
        )
    assert told
    assert 1_000_000 <= told[0] <= 3_000_000


def test_a_full_disk_is_the_reason_whatever_is_printed_after_it(folder: Path) -> None:
    with connected("h2", folder) as remote, pytest.raises(ScriptError, match="No space left on device"):
        remote.run(
            "echo 'cat: write: No space left on device' >&2; echo 'E: dpkg returned an error' >&2; exit 100"
        )


def test_only_the_opening_of_the_connection_can_ask_at_the_terminal(folder: Path) -> None:
    """A process group of its own is in the background: the kernel stops it when it reads the terminal."""
    note = '#!/bin/sh\necho $(cut -d" " -f5 /proc/self/stat) "$@" >>"$(dirname "$0")/groups"\n'
    program(folder, "ssh", note + SSH.removeprefix("#!/bin/sh\n"))
    with connected("h2", folder) as remote:
        remote.run("echo here")
    opening, script = (folder / "groups").read_text().splitlines()[:2]
    own = str(os.getpgrp())
    assert opening.split()[0] == own
    assert "BatchMode" not in opening
    assert script.split()[0] != own
    assert "BatchMode=yes" in script
