"""Which rules are ours, and what is done when the programs fail. A real ruleset: tests/kernel."""

from __future__ import annotations

import subprocess
from subprocess import CompletedProcess

import pytest
import trio

from netagent.integrations.docker import docker_user_chain
from netagent.integrations.docker.docker_user_chain import RULE, DockerUserChain, ours_untrusted


class Chain:
    """In place of the programs: a chain as `-S` lists it, in memory."""

    def __init__(self, *rules: str) -> None:
        self.rules = list(rules)
        self.refusal = ""

    async def run(self, program: str, order: str, _chain: str, *words: str) -> CompletedProcess[bytes] | None:
        if program == "ip6tables":
            return None  # not there
        if order == "-S":
            listed = ["-N DOCKER-USER", *(f"-A DOCKER-USER {rule}" for rule in self.rules)]
            return subprocess.CompletedProcess([], 0, "\n".join(listed).encode(), b"")
        if self.refusal:
            return subprocess.CompletedProcess([], 4, b"", self.refusal.encode())
        rule = " ".join(words)
        self.rules.remove(rule) if order == "-D" else self.rules.insert(0, rule)
        return subprocess.CompletedProcess([], 0, b"", b"")


def play(monkeypatch: pytest.MonkeyPatch, chain: Chain, *steps: str) -> DockerUserChain:
    kept = DockerUserChain()
    monkeypatch.setattr(docker_user_chain, "_run", chain.run)
    for step in steps:
        trio.run(getattr(kept, step))
    return kept


@pytest.mark.parametrize(
    "before",
    [
        ("-j RETURN",),
        (RULE, "-j RETURN"),
        (RULE, RULE, "-j RETURN"),
        ("-i na-+ -m comment --comment netagent -j ACCEPT", "-j RETURN"),
    ],
)
def test_one_rule_is_there_and_then_none(monkeypatch: pytest.MonkeyPatch, before: tuple[str, ...]) -> None:
    chain = Chain(*before)
    play(monkeypatch, chain, "ensure")
    assert chain.rules == [RULE, "-j RETURN"]
    play(monkeypatch, chain, "ensure", "remove")
    assert chain.rules == ["-j RETURN"]


def test_each_way_out_has_its_pair_of_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = Chain("-j RETURN")
    monkeypatch.setattr(docker_user_chain, "_run", chain.run)
    ways = {"eth0", "wg1", "bad name"}
    kept = DockerUserChain(lambda: ways)
    trio.run(kept.ensure)
    assert "-i na-+ -o eth0 -m comment --comment netagent -j ACCEPT" in chain.rules
    assert "-i wg1 -o na-+ -m comment --comment netagent -j ACCEPT" in chain.rules
    assert len(chain.rules) == 6
    ways.remove("wg1")
    trio.run(kept.ensure)
    assert not [rule for rule in chain.rules if "wg1" in rule]
    trio.run(kept.remove)
    assert chain.rules == ["-j RETURN"]


def test_a_refusal_is_shown_until_it_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = Chain("-j RETURN")
    chain.refusal = "iptables: Permission denied"
    kept = play(monkeypatch, chain, "ensure", "ensure")
    assert kept.troubles() == (
        "iptables cannot change Docker's chain DOCKER-USER: iptables: Permission denied",
    )
    chain.refusal = ""
    trio.run(kept.ensure)
    assert kept.troubles() == ()


def test_only_rules_with_our_comment_are_ours() -> None:
    foreign = [
        "-N DOCKER-USER",
        "-A DOCKER-USER -i na-+ -j ACCEPT",
        '-A DOCKER-USER -m comment --comment "netagent and more" -j ACCEPT',
        "-A DOCKER-USER -m comment --comment netagent-x -j ACCEPT",
        '-A DOCKER-USER -m comment --comment netagent -m string --string "it\'s" -j ACCEPT',
        "-A OTHER -m comment --comment netagent -j ACCEPT",
        "",
        "garbage",
    ]
    assert ours_untrusted("\n".join(foreign)) == []
    assert ours_untrusted(f"-A DOCKER-USER {RULE}\n") == [RULE]
