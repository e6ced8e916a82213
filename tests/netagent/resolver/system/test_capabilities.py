"""What the broker of the running resolver process may do, by /proc."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import trio
from fakes.resolver_process import Container, agent, serve

from netagent.model.sandbox import SandboxId
from netagent.resolver.system import capabilities

pytestmark = pytest.mark.kernel


def test_the_broker_keeps_no_right_that_it_does_not_need(run_dir: Path, container: Container) -> None:
    async def main() -> None:
        async with agent(run_dir, stop=True) as one:
            await serve(one, container, behind_runtime=True)  # with the table that takes one of them
            assert (await one.statistics())["redirects"] == 1
            status = await trio.Path(f"/proc/{one.status()['process_id']}/status").read_text()
            said = dict(line.split(":\t") for line in status.splitlines())
            kept = sum(1 << number for number in capabilities.KEPT)
            sets = {name: int(said[name], 16) for name in ("CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb")}
            kills = 1 << capabilities.KILL
            assert sets == {"CapEff": kills, "CapPrm": kept, "CapInh": 0, "CapBnd": 0, "CapAmb": 0}
            assert said["NoNewPrivs"] == "1"
            await one.remove_sandbox(SandboxId("c"))
            tables = ["ip", "netns", "exec", container.netns, "nft", "list", "tables"]
            assert (await trio.run_process(tables, capture_stdout=True)).stdout == b""

    trio.run(main)


def test_what_cannot_be_given_up_is_reported_and_the_rest_is_given_up(run_dir: Path) -> None:
    """A unit whose bounding set lacks CAP_SETPCAP: then the process has nothing to drop that set with."""
    script = (
        "from netagent.resolver.system import capabilities\n"
        "try:\n    capabilities.keep_few()\nexcept OSError as error:\n    print(error.strerror)\n"
        "print(*(line.split()[1] for line in open('/proc/self/status') if line[:6] in ('CapEff', 'CapPrm')))"
    )
    limited = ["setpriv", "--bounding-set", "-setpcap", "--inh-caps", "-setpcap"]
    done = subprocess.run(
        [*limited, sys.executable, "-c", script], check=True, capture_output=True, text=True, cwd=run_dir
    )
    kept = sum(1 << number for number in capabilities.KEPT)
    assert done.stdout.splitlines() == [
        "Operation not permitted",
        f"{kept:016x} {1 << capabilities.KILL:016x}",
    ]


def test_what_was_in_effect_before_a_block_is_in_effect_after_it() -> None:
    """In a process that never gave rights up, as this one, too."""

    def in_effect() -> str:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(line for line in lines if line.startswith("CapEff"))

    before = in_effect()
    with capabilities.raised():
        pass
    assert in_effect() == before
