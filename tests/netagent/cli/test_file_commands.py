"""`netagent export` and `netagent apply` as people type them, and the file between them."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from fakes.agent_service import Served
from hypothesis import given
from hypothesis import strategies as st

from netagent.cli.client_commands import CommandContext
from netagent.cli.file_commands import _send, content_untrusted, toml_of
from netagent.control.client import TIMEOUT
from netagent.errors import FailedError, InputError, NetagentError, UnreachableError
from netagent.interface.description import NETWORK_STEP_S, SECTIONS, ApplyCommand

Run = Callable[..., "subprocess.CompletedProcess[str]"]

TEXTS = st.text(max_size=20)
VALUES = st.one_of(TEXTS, st.booleans(), st.integers(0, 2**31), st.lists(TEXTS, min_size=1, max_size=3))
TABLES = st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), VALUES, max_size=4)
FULL = TABLES.map(lambda table: {key: value for key, value in table.items() if value not in ("", [])})


ARRAYS = st.fixed_dictionaries(
    {field: st.lists(FULL, max_size=3) for field in SECTIONS if field != "networks"}
)


@given(st.dictionaries(TEXTS, FULL, max_size=4), ARRAYS)
def test_a_written_file_is_read_as_it_was(networks: dict[str, Any], arrays: dict[str, list[Any]]) -> None:
    tables = {name: {k: v for k, v in table.items() if k != "name"} for name, table in networks.items()}
    answer = {
        "networks": [{"name": name, **table} for name, table in tables.items()],
        **arrays,
        "left_out": ["service a\x07b of network c"],
    }
    read = content_untrusted("\n".join(toml_of(answer)), "x.toml")
    assert read == {key: answer[key] for key in SECTIONS}


@given(st.one_of(st.text(), st.text("[]{}=.\"' \n\tnetworkservicename#1", max_size=80)))
def test_any_text_is_read_or_refused_in_one_sentence(text: str) -> None:
    try:
        read = content_untrusted(text, "x.toml")
    except InputError:
        return  # and no other error
    else:
        assert read.keys() == SECTIONS.keys()
        assert all(isinstance(one, dict) for items in read.values() for one in items)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[network", "is no TOML"),
        ("[networks.app]", "a section 'networks', which means nothing here"),
        ("network = 3", "write [network.NAME]"),
        ("network.app = 3", "write [network.NAME]"),
        ('[network.app]\nname = "other"', "its name in [network.NAME] alone"),
        ("service = 3", "write [[service]]"),
        ("[service]", "write [[service]]"),
        ("name = [1]", "write [[name]]"),
        ("a=" + "[" * 5000, "is no TOML"),
        ("a=" + "1" * 5000, "is no TOML"),
        (".".join("a" * 100_000) + "=1", "a key of more than 64 parts"),
        ("[[name]]\nname = 2026-01-01", "write texts, whole numbers, true and false"),
        ("[network.app]\nmtu_bytes = nan", "write texts, whole numbers, true and false"),
    ],
)
def test_a_file_of_another_form_is_refused(text: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        content_untrusted(text, "x.toml")
    assert said in str(caught.value)


def test_export_is_a_file_for_apply(served: Served, netagent: Run, tmp_path: Path) -> None:
    file = tmp_path / "cluster.toml"
    done = netagent("export")
    assert (done.returncode, done.stderr) == (0, "")
    assert tomllib.loads(done.stdout)["network"]["app"]["policy"] == "open"
    file.write_text(done.stdout)
    again = netagent("apply", str(file))
    assert (again.returncode, again.stdout) == (0, f"the cluster is as {file} says\n")


def test_apply_shows_asks_and_does(served: Served, netagent: Run, tmp_path: Path) -> None:
    file = tmp_path / "cluster.toml"
    file.write_text('[network.db]\npolicy = "links"\n')
    shown = netagent("apply", str(file), "--dry-run")
    assert (shown.returncode, shown.stdout.splitlines()) == (
        1,
        ["+ network db: with the defaults", "not in the file, stays as it is: network app"],
    )
    asked = netagent("apply", str(file))
    assert asked.returncode == 2
    assert "there is no one to agree to 1 change here" in asked.stderr
    assert "--yes" in asked.stderr
    assert "db" not in served.service.networks
    done = netagent("apply", "-", "--yes", stdin=file.read_text())
    assert (done.returncode, done.stdout.splitlines()[:2]) == (
        0,
        ["+ network db: with the defaults", "made 1 change"],
    )
    assert "db" in served.service.networks
    assert netagent("apply", str(file), "--dry-run").returncode == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[network.app]\ncolour = 1", "[network.app] colour: there is no field 'colour'"),
        (
            '[network.app]\npolicy = "shut"',
            "[network.app] policy: policy 'shut' is not known; use open or audit",
        ),
        ("[[service]]\n", "[[service]] 1 network: the network is missing"),
        ('[network.app]\ninternal = "yes"', "[network.app] internal: internal is neither true nor false"),
    ],
)
def test_wrong_values_are_refused_where_they_are(
    served: Served, netagent: Run, tmp_path: Path, text: str, said: str
) -> None:
    file = tmp_path / "cluster.toml"
    file.write_text(text)
    done = netagent("apply", str(file), "--yes")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"netagent: {file}: {said}" in done.stderr
    assert done.stderr.count("\n") == 1


def test_all_that_is_wrong_is_said_at_once(served: Served, netagent: Run, tmp_path: Path) -> None:
    file = tmp_path / "cluster.toml"
    served.service.problems = [
        {
            "pointer": f"/names/{index}/{key}",
            "place": "?",
            "message": "is taken",
            "hint": "",
            "code": "name-in-use",
        }
        for index, key in ((0, "name"), (1, "cname"))
    ]
    flawed = '[network.app]\ncolour = 1\ninternal = "yes"\n[[name]]\ncname = "web"\n'
    flawed += '[[name]]\nname = "x.app"\ncname = 3\n'
    file.write_text(flawed + '[[name]]\nname = "y.app"\ncname = "web"\n')
    done = netagent("apply", str(file), "--yes")
    assert done.returncode == 2
    assert [
        line.removeprefix(f"netagent: {file}: ").partition(":")[0] for line in done.stderr.splitlines()
    ] == [
        "[network.app] colour",
        "[network.app] internal",
        "[[name]] 1 name",
        "[[name]] 2 (x.app) cname",
        "[[name]] 3 (y.app) cname",  # the second that was sent; of the first, a flaw was known
    ]
    file.write_text('[[name]]\nname = "x.app"\ncname = "web"\n' * 2)
    refused = netagent("apply", str(file), "--dry-run", "--json")
    assert refused.returncode == 4, "by a rule of the cluster; 1 would be a difference"
    assert [one["place"] for one in json.loads(refused.stdout)["problems"]] == [
        "[[name]] 1 (x.app) name",
        "[[name]] 2 (x.app) cname",
    ]


def test_of_very_many_problems_the_first_are_said(served: Served, netagent: Run, tmp_path: Path) -> None:
    file = tmp_path / "cluster.toml"
    file.write_text("".join(f"[network.n{number}]\ncolour = 1\n" for number in range(30)))
    lines = netagent("apply", str(file)).stderr.splitlines()
    assert (len(lines), lines[-1]) == (21, "netagent: and 10 more")
    file.write_text('[[name]]\nname = "x.app"\ncname = "web"\n' * 65)
    assert "has 65 of [[name]], at most 64 are possible" in netagent("apply", str(file)).stderr


def test_new_tokens_go_into_files_for_their_owner_alone(
    served: Served, netagent: Run, tmp_path: Path
) -> None:
    file, folder = tmp_path / "cluster.toml", tmp_path / "tokens"
    file.write_text('[[token]]\nname = "ci"\nrole = "read"\n')
    shown = netagent("apply", str(file), "--yes")
    assert (shown.returncode, "standard output is no terminal; give --token-dir DIR" in shown.stderr) == (
        2,
        True,
    )
    missing = netagent("apply", str(file), "--yes", "--token-dir", str(folder))
    assert (missing.returncode, f"cannot make {folder}/ci.token" in missing.stderr) == (2, True)
    folder.mkdir()
    (folder / "ci.token").write_text("used by a program")
    assert "File exists" in netagent("apply", str(file), "--yes", "--token-dir", str(folder)).stderr
    assert served.service.described_tokens == [], "no secret is made that has no place"
    (folder / "ci.token").unlink()
    refused = netagent("apply", str(file), "--token-dir", str(folder))
    assert (refused.returncode, list(folder.iterdir())) == (2, []), "without agreement there is no file"
    done = netagent("apply", str(file), "--yes", "--token-dir", str(folder), "--json")
    assert json.loads(done.stdout)["tokens"] == [{"name": "ci", "file": f"{folder}/ci.token"}]
    assert ("secret" in done.stdout + done.stderr, (folder / "ci.token").read_text()) == (
        False,
        "netagent_ci_secret\n",
    )
    assert (folder / "ci.token").stat().st_mode & 0o777 == 0o600
    assert netagent("apply", str(file)).returncode == 0
    assert "[[token]]" in netagent("export", "--tokens").stdout
    assert "[[token]]" not in netagent("export").stdout


def test_on_a_terminal_a_new_token_is_shown_once(served: Served, tmp_path: Path) -> None:
    file = tmp_path / "cluster.toml"
    file.write_text('[[token]]\nname = "ci"\nrole = "read"\n')
    command = [
        sys.executable,
        "-m",
        "netagent.cli.main",
        "--socket",
        str(served.path),
        "apply",
        str(file),
        "--yes",
    ]
    main, terminal = pty.openpty()
    try:
        subprocess.run(command, stdout=terminal, timeout=30, check=True)
        text = os.read(main, 4096).decode()
    finally:
        os.close(main)
        os.close(terminal)
    assert "the token ci, shown this once: netagent_ci_secret" in text


@pytest.mark.parametrize("error", [UnreachableError("it broke off"), FailedError("too late", code=TIMEOUT)])
def test_without_an_answer_changes_may_be_made(error: NetagentError) -> None:
    def send(_request: ApplyCommand) -> None:
        raise error

    session = cast("CommandContext", SimpleNamespace(client=SimpleNamespace(send=send)))
    with pytest.raises(type(error)) as caught:
        _send(session, ApplyCommand(file="x.toml"), "x.toml", ["ci"])
    assert "`netagent apply --dry-run` with x.toml shows what is left" in caught.value.hint
    assert "revoke them: ci" in caught.value.hint


def test_many_changes_may_take_their_time() -> None:
    many = [{"name": f"n{number}"} for number in range(64)]
    assert ApplyCommand(networks=many).work_s == 64 * NETWORK_STEP_S, "each waits for hosts that are silent"
    assert ApplyCommand(networks=many, dry_run=True).work_s == 0


def test_a_file_that_cannot_be_read(served: Served, netagent: Run, tmp_path: Path) -> None:
    done = netagent("apply", str(tmp_path / "none.toml"))
    assert (done.returncode, "No such file" in done.stderr) == (2, True)
    (tmp_path / "latin").write_bytes(b"\xff")
    assert "is no text in UTF-8" in netagent("apply", str(tmp_path / "latin")).stderr
