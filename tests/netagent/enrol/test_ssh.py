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


@pytest.mark.parametrize("where", ["", "root@", "-oProxyCommand=touch /tmp/never", "-x@h2", "root@h 2"])
def test_what_is_no_host_does_not_reach_ssh(folder: Path, where: str) -> None:
    with pytest.raises(InputError, match="is no host"), connected(where, folder):
        pass
    assert not (folder / "calls").exists()
