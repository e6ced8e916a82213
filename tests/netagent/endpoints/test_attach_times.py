from __future__ import annotations

import pytest

from netagent.endpoints.attach_times import OTHER, AttachTimes, runtime_of


@pytest.mark.parametrize(
    ("target", "origin", "runtime"),
    [
        ("netns:web", None, "netns"),
        ("/run/netns/web", None, "netns"),
        ("/var/run/netns/cni-1", "cni:1/eth0", "cni"),
        ("docker:web", None, "docker"),
        ("docker:web", "docker:e1", "docker"),
        ("invented:1", None, OTHER),
        ("", None, OTHER),
    ],
)
def test_the_runtime_is_one_of_a_closed_set(target: str, origin: str | None, runtime: str) -> None:
    assert runtime_of(target, origin) == runtime


def test_stages_follow_each_other_and_add_up() -> None:
    moments = iter([1.0, 1.25, 1.75, 2.0])
    times = AttachTimes(lambda: next(moments))
    with times.attach("netns:web") as stages:
        stages.end("address")
        stages.end("interface")
    assert times.stages["netns", "address"].total == 0.25
    assert times.stages["netns", "interface"].total == 0.5
    assert times.totals["netns",].total == 1.0


def test_what_fails_counts_as_a_failure_and_not_as_an_attach() -> None:
    times = AttachTimes(lambda: 1.0)
    with pytest.raises(OSError, match="no"), times.attach("docker:web"):
        raise OSError("no")
    with pytest.raises(OSError, match="no"), times.step("create", "docker:web"):
        raise OSError("no")
    assert times.failures == {("docker",): 2}
    assert times.totals == {}
    assert times.stages == {}
