"""What another host says of itself, and whether netagent can be installed there."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netagent.enrol.host_facts import (
    MAX_FACTS_BYTES,
    PROBE,
    FactsError,
    HostFacts,
    Needs,
    facts_untrusted,
    failures_untrusted,
    identity_untrusted,
    obstacles,
)

DEBIAN = HostFacts(
    kernel="Linux",
    machine="x86_64",
    name="h2.example.net",
    python="3.13",
    programs=frozenset({"nft", "dpkg", "apt-get", "tar", "systemd"}),
    is_member=False,
    is_occupied=False,
    architecture="amd64",
    abi="cpython-313-x86_64-linux-gnu",
    free_kib=(("/usr/lib", 1_000_000), ("/var/tmp", 1_000_000)),
)
NEEDS = Needs("3.13", is_deb=True, size_kib=60_000, architecture="amd64", abi="cpython-313-x86_64-linux-gnu")


def test_the_probe_is_answered_by_this_machine(tmp_path: Path) -> None:
    done = subprocess.run(
        ["sh", "-c", PROBE, "sh", str(tmp_path), "/nowhere/at all"], capture_output=True, check=False
    )
    facts = facts_untrusted(b"Welcome to h2!\nfoo=bar\n" + done.stdout)
    assert facts.kernel == "Linux"
    assert facts.is_occupied
    assert facts.abi.startswith(f"cpython-{facts.python.replace('.', '')}-")
    assert [place for place, _ in facts.free_kib] == [str(tmp_path), "/"]
    assert {"dpkg", "tar"} <= facts.programs


@given(st.binary(max_size=2000))
def test_any_answer_is_parsed_or_refused(answer: bytes) -> None:
    try:
        facts = facts_untrusted(answer)
    except FactsError:
        return
    assert all(len(text) < 256 for text in (facts.kernel, facts.machine, facts.name, facts.python))


def test_an_answer_without_an_end_is_refused() -> None:
    with pytest.raises(FactsError, match="does not run a script"):
        facts_untrusted(b"kernel=Linux\n")
    with pytest.raises(FactsError, match="more than"):
        facts_untrusted(b"end=end\n" + bytes(MAX_FACTS_BYTES))


def test_a_debian_host_has_no_obstacle() -> None:
    assert list(obstacles(DEBIAN, NEEDS, ())) == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"kernel": "Darwin"}, "it runs Darwin"),
        ({"architecture": "arm64"}, "its architecture is arm64, and the program here is for amd64"),
        ({"abi": "cpython-313-i386-linux-gnu"}, "takes modules for cpython-313-i386-linux-gnu"),
        (
            {"free_kib": (("/var/tmp", 50 * 1024),)},
            "/var/tmp has 50 MiB of free space, and netagent needs 104",
        ),
        ({"python": "3.11"}, "its /usr/bin/python3 is 3.11, and the program here needs 3.13"),
        ({"python": ""}, "it has no /usr/bin/python3"),
        ({"programs": DEBIAN.programs - {"nft"}}, "it has no program nft"),
        ({"programs": DEBIAN.programs - {"systemd"}}, "it does not run systemd"),
        ({"programs": DEBIAN.programs - {"dpkg"}}, "it has no dpkg and apt-get"),
        ({"is_occupied": True}, "a folder of netagent is there"),
    ],
)
def test_obstacles(change: dict[str, object], says: str) -> None:
    facts = dataclasses.replace(DEBIAN, **change)  # type: ignore[arg-type]
    [(reason, cure)] = obstacles(facts, NEEDS, ())
    assert says in reason
    assert cure


def test_a_runtime_that_is_not_there_is_an_obstacle_also_where_netagent_is() -> None:
    facts = dataclasses.replace(DEBIAN, programs=frozenset({"systemd", "netagent", "podman"}))
    [(reason, _)] = obstacles(facts, None, ("docker", "podman", "cni"))
    assert reason == "it has no program docker"


def test_a_host_that_has_the_program_needs_no_package() -> None:
    facts = dataclasses.replace(
        DEBIAN, python="", programs=frozenset({"systemd", "netagent"}), is_occupied=True
    )
    assert list(obstacles(facts, NEEDS, ())) == []


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["host", "id", "findings", "severity", "name", "message", "fix"]),
            inner | st.just("failed"),
        )
    ),
)


@given(_JSON)
def test_whatever_json_a_host_answers_is_read_or_refused_in_one_way(answer: object) -> None:
    text = json.dumps(answer)
    with contextlib.suppress(FactsError):
        assert all(isinstance(word, str) for word in identity_untrusted(text.encode()))
    with contextlib.suppress(FactsError):
        for failure in failures_untrusted(text.encode()):
            assert all(isinstance(word, str) for word in failure)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "[" * 100_000,
        '{"host": {"id": ["1"]}}',
        '{"host": [{"name": "x", "findings": [{"severity": "failed"}]}]}',
        '{"host": [{"name": "x", "findings": [{"severity": "failed", "message": {}, "fix": ""}]}]}',
    ],
)
def test_no_answer_is_a_defect_of_ours(answer: str) -> None:
    with pytest.raises(FactsError):
        identity_untrusted(answer.encode())
    with pytest.raises(FactsError):
        failures_untrusted(answer.encode())
