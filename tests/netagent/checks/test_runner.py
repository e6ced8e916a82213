"""The rows follow the checks: what is asked, what is saved, and what stands while nothing can be asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random
from typing import Any

import trio
from fakes.registry import H1
from fakes.rows import NETNS, PUBLISHED, local_row
from fakes.virtual import virtual

from netagent.checks.ask import Question
from netagent.checks.runner import CheckRunner
from netagent.checks.schedule import COMMANDS_AT_ONCE, MAX_AT_ONCE
from netagent.checks.spec import parse_check_untrusted
from netagent.checks.state import FIRST_HOLD_S, Answer, Outcome, Unasked
from netagent.errors import FailedError
from netagent.journal.rows import LocalEndpointRow, Published
from netagent.model.check import CheckedHealth, ExecCheck, HttpCheck
from netagent.model.records import STOP, Drain, Health, HealthNote
from netagent.registry.state_store import StateStore
from netagent.registry.view import RegistryView


def row(number: int, *texts: str, **fields: Any) -> LocalEndpointRow:
    """A published endpoint with checks."""
    usual: dict[str, Any] = {
        "name": f"w{number}",
        "stage": PUBLISHED,
        "addresses": (f"10.0.{number // 250}.{number % 250 + 2}",),
        "checks": tuple(map(parse_check_untrusted, texts)),
    }
    return local_row(f"{number:032x}", "a" * 32, **usual | fields)


class Host:
    """A host whose containers answer as `status` says, after `took_s`."""

    def __init__(self) -> None:
        self.live = StateStore(RegistryView(H1), {})
        self.status: dict[int, int] = {}
        """By port; 0: the check cannot be asked; 200 for others."""
        self.took_s = 0.001
        self.asked: list[tuple[float, str, int]] = []
        self.at_once = self.most_at_once = 0
        self.commands: list[tuple[str, ...]] = []
        self.commands_at_once = self.most_commands = 0
        self.is_paused = False
        """True: its runtime runs no command."""
        self.saved: list[tuple[str, CheckedHealth]] = []
        self.refusals = 0
        """How often saving fails from now on."""
        self.runner = CheckRunner(self.live, self._save, self._execute, Random(1), self._ask)

    async def _ask(self, questions: Sequence[Question], done: Callable[[int, Answer], None]) -> None:
        self.at_once += len(questions)
        self.most_at_once = max(self.most_at_once, self.at_once)
        for question in questions:
            self.asked.append((trio.current_time(), question.addresses[0], question.subject.port))
        await trio.sleep(self.took_s)
        for number, question in enumerate(questions):
            self.at_once -= 1
            assert isinstance(question.subject, HttpCheck)
            status = self.status.get(question.subject.port, 200)
            text = f"http {status} from {question.place}"
            done(number, Outcome(is_success=status == 200, text=text) if status else None)

    async def _execute(self, _row: LocalEndpointRow, check: ExecCheck, _timeout_s: float) -> Answer:
        self.commands.append(check.command)
        self.commands_at_once += 1
        self.most_commands = max(self.most_commands, self.commands_at_once)
        await trio.sleep(self.took_s)
        self.commands_at_once -= 1
        if self.is_paused:
            return Unasked("/bin/ready cannot run: paused")
        return Outcome(is_success=True, text="/bin/ready exited with 0")

    async def _save(self, seen: LocalEndpointRow, checked: CheckedHealth) -> None:
        await trio.sleep(0.01)
        if self.refusals:
            self.refusals -= 1
            raise FailedError("the disk is full")
        now = self.live.rows.get(seen.endpoint_id)
        if now is not None and (now.netns, now.checks) == (seen.netns, seen.checks):
            self.saved.append((now.name, checked))
            self.live.set_row(replace(now, checked=checked))

    def health(self, number: int) -> Health | None:
        """The health in a row."""
        checked = self.live.rows[row(number).endpoint_id].checked
        return None if checked is None else checked.health


def on_a_host(test: Callable[[Host], Any]) -> Callable[[], None]:
    """Run a test while the checks run."""

    @virtual
    async def run() -> None:
        host = Host()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(host.runner.run)
            await test(host)
            nursery.cancel_scope.cancel()

    return run


@on_a_host
async def test_a_container_that_was_asked_to_stop_is_asked_no_longer_and_keeps_its_state(host: Host) -> None:
    """That its program ends is no news: other hosts have one change less to learn."""
    well = row(1, "http:80/ interval=1s fall=1")
    host.live.set_row(well)
    await trio.sleep(2)
    assert host.health(1) is Health.HEALTHY
    now = host.live.rows[well.endpoint_id]
    for drain in (Drain(1_700_000_000, STOP), None):
        host.live.set_row(replace(host.live.rows[well.endpoint_id], drain=drain))
        await trio.sleep(2)
        host.asked.clear()
        host.status[80] = 503 if drain else 200
        await trio.sleep(5)
        assert bool(host.asked) is (drain is None)
        assert host.live.rows[well.endpoint_id].checked == now.checked
    host.live.set_row(replace(host.live.rows[well.endpoint_id], drain=Drain(1_700_000_000, "anna")))
    host.status[80] = 503
    await trio.sleep(5)
    assert host.health(1) is Health.UNHEALTHY, "an operator who drained it sees how it is"


@on_a_host
async def test_a_row_follows_its_check(host: Host) -> None:
    host.live.set_row(row(1, "http:80/ fall=2 rise=2 grace=0s"))
    host.status[80] = 503
    await trio.sleep(0.1)
    assert host.health(1) is Health.STARTING
    await trio.sleep(5)
    assert host.health(1) is Health.UNHEALTHY
    host.status[80] = 200
    await trio.sleep(60)
    assert host.health(1) is Health.HEALTHY
    assert [checked.health for _, checked in host.saved] == [
        Health.STARTING, Health.UNHEALTHY, Health.HEALTHY
    ]  # fmt: skip
    assert host.saved[1][1].note.reason == "http 503 from 80/, failed 2 of 2 times"


@on_a_host
async def test_rows_without_checks_or_half_attached_are_left_alone(host: Host) -> None:
    host.live.set_row(row(1))
    host.live.set_row(replace(row(2, "http:80/"), stage=local_row("0" * 32, "0" * 32).stage))
    await trio.sleep(30)
    assert host.asked == []
    assert host.saved == []


@on_a_host
async def test_a_check_that_cannot_be_asked_says_nothing(host: Host) -> None:
    host.live.set_row(row(1, "http:80/ fall=1"))
    await trio.sleep(5)
    assert host.health(1) is Health.HEALTHY
    host.status[80] = 0
    await trio.sleep(60)
    assert host.health(1) is Health.HEALTHY


@on_a_host
async def test_a_container_cannot_keep_its_state_by_being_paused(host: Host) -> None:
    host.live.set_row(row(1, "exec:/bin/ready interval=2s fall=3"))
    await trio.sleep(5)
    assert host.health(1) is Health.HEALTHY
    host.is_paused = True
    await trio.sleep(3)
    assert host.health(1) is Health.HEALTHY
    await trio.sleep(10)
    assert host.health(1) is Health.UNHEALTHY
    assert host.saved[-1][1].note.reason == "/bin/ready cannot run: paused, failed 3 of 3 times"
    host.is_paused = False
    await trio.sleep(30)
    assert host.health(1) is Health.HEALTHY


@on_a_host
async def test_a_hold_ends_by_itself_when_only_the_runtime_s_check_recovers(host: Host) -> None:
    host.live.set_row(row(1, "http:80/ interval=1h", health=Health.HEALTHY))
    await trio.sleep(2)
    assert host.health(1) is Health.HEALTHY
    for health in (Health.UNHEALTHY, Health.HEALTHY):
        host.live.set_row(replace(host.live.rows[row(1).endpoint_id], health=health))
        await trio.sleep(0.5)
        assert host.health(1) is Health.UNHEALTHY
    await trio.sleep(FIRST_HOLD_S)
    assert host.health(1) is Health.HEALTHY


@on_a_host
async def test_commands_that_hang_keep_no_check_by_http_from_its_turn(host: Host) -> None:
    host.took_s = 60.0
    for number in range(40):
        host.live.set_row(row(number, "exec:/bin/ready timeout=1m", "exec:/bin/other timeout=1m"))
    await trio.sleep(20)
    host.took_s = 0.001
    host.live.set_row(row(99, "http:80/"))
    await trio.sleep(2)
    assert host.health(99) is Health.HEALTHY
    assert host.most_commands == COMMANDS_AT_ONCE


@on_a_host
async def test_an_operator_s_question_runs_few_commands_at_once(host: Host) -> None:
    asked = row(1, *[f"exec:/bin/ready{number}" for number in range(8)])
    found = await host.runner.ask_now(asked)
    assert len(found) == 8
    assert host.most_commands == COMMANDS_AT_ONCE


@on_a_host
async def test_an_endpoint_that_is_checked_drained_and_stopped_costs_three_changes(host: Host) -> None:
    """Of its record: it is published as starting, comes up, and is drained. Nothing its checks see after that counts,
    and its end is a removal."""
    added = row(
        1, "http:80/ fall=1 rise=1", "exec:/bin/ready fall=1 rise=1 interval=1s", health=Health.HEALTHY
    )
    host.live.set_row(added)
    await trio.sleep(5)
    assert host.health(1) is Health.HEALTHY
    host.live.set_row(replace(host.live.rows[added.endpoint_id], drain=Drain(1_700_000_000, STOP)))
    host.status[80], host.is_paused = 503, True
    await trio.sleep(1)
    now = host.live.rows[added.endpoint_id]
    host.live.set_row(replace(now, health=Health.UNHEALTHY))
    await trio.sleep(30)
    host.live.drop_row(added.endpoint_id)
    await trio.sleep(30)
    assert [checked.health for _, checked in host.saved] == [Health.STARTING, Health.HEALTHY]


@on_a_host
async def test_what_was_found_before_stands_at_the_start(host: Host) -> None:
    up = CheckedHealth(Health.HEALTHY, HealthNote(1_700_000_000))
    host.status[80] = 503
    host.live.set_row(row(1, "http:80/ fall=3", checked=up))
    await trio.sleep(2)
    assert host.saved == []
    await trio.sleep(10)
    assert host.health(1) is Health.UNHEALTHY


@on_a_host
async def test_a_restarted_container_starts_again(host: Host) -> None:
    host.live.set_row(row(1, "http:80/"))
    await trio.sleep(5)
    assert host.health(1) is Health.HEALTHY
    host.status[80] = 503
    again = Published(replace(NETNS, identity=(4, 8)), "eth0")
    host.live.set_row(row(1, "http:80/", stage=again))
    await trio.sleep(1)
    assert host.health(1) is Health.STARTING
    host.status[80] = 200
    await trio.sleep(3)
    assert host.health(1) is Health.HEALTHY


@on_a_host
async def test_a_result_of_an_endpoint_that_is_gone_is_dropped(host: Host) -> None:
    host.took_s = 5.0
    host.live.set_row(row(1, "http:80/"))
    await trio.sleep(2)
    assert len(host.asked) == 1
    host.live.drop_row(row(1).endpoint_id)
    await trio.sleep(30)
    assert len(host.asked) == 1
    assert [checked.health for _, checked in host.saved] == [Health.STARTING]


@on_a_host
async def test_the_runtime_s_health_is_one_of_the_checks(host: Host) -> None:
    host.live.set_row(row(1, "http:80/", health=Health.STARTING))
    await trio.sleep(5)
    assert host.health(1) is Health.STARTING
    now = host.live.rows[row(1).endpoint_id]
    host.live.set_row(replace(now, health=Health.HEALTHY))
    await trio.sleep(1)
    assert host.health(1) is Health.HEALTHY


@on_a_host
async def test_a_result_that_cannot_be_saved_is_saved_later(host: Host) -> None:
    host.refusals = 3
    host.live.set_row(row(1, "http:80/"))
    await trio.sleep(20)
    assert host.health(1) is Health.HEALTHY
    assert host.refusals == 0


@on_a_host
async def test_a_command_is_run_by_the_runtime(host: Host) -> None:
    host.live.set_row(row(1, "exec:'/bin/ready -v'"))
    await trio.sleep(5)
    assert host.commands == [("/bin/ready", "-v")]
    assert host.health(1) is Health.HEALTHY


@on_a_host
async def test_many_checks_that_hang_are_asked_in_turn(host: Host) -> None:
    host.took_s = 1.0
    for number in range(500):
        host.live.set_row(row(number, "http:80/"))
    await trio.sleep(60)
    assert host.most_at_once == MAX_AT_ONCE
    assert {address for _, address, _ in host.asked} == {row(number).addresses[0] for number in range(500)}
    assert all(host.health(number) is Health.HEALTHY for number in range(500))


@on_a_host
async def test_a_quiet_cluster_changes_nothing(host: Host) -> None:
    """A thousand healthy checks cost other hosts nothing after the start."""
    for number in range(1000):
        host.live.set_row(row(number, "http:80/"))
    await trio.sleep(20)
    count, revision = len(host.saved), host.live.revision
    assert count <= 2000
    await trio.sleep(60)
    assert len(host.saved) == count
    assert host.live.revision == revision
