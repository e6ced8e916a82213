"""The queue of broadcasts."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from netgossip.membership.broadcasts import BroadcastQueue


def take(queue: BroadcastQueue, space_bytes: int = 1000, count: int = 255, members: int = 2) -> list[bytes]:
    return queue.take(space_bytes=space_bytes, part_bytes=2, count=count, members=members)


def test_limit_grows_with_the_logarithm() -> None:
    queue = BroadcastQueue(4)
    assert [queue.limit(n) for n in (1, 2, 3, 6, 9, 99, 100, 10_000)] == [4, 4, 6, 12, 12, 12, 12, 20]


def test_a_broadcast_is_sent_as_often_as_its_limit_says() -> None:
    queue = BroadcastQueue(4)
    queue.put("a", b"broadcast")
    assert [take(queue) for _ in range(5)] == [[b"broadcast"]] * 4 + [[]]
    assert "a" not in queue


def test_a_broadcast_to_a_dead_member_does_not_count() -> None:
    queue = BroadcastQueue(4)
    queue.put("a", b"broadcast")
    for _ in range(9):
        assert queue.take(space_bytes=99, part_bytes=2, count=9, members=2, is_counted=False) == [
            b"broadcast"
        ]
    assert [take(queue) for _ in range(5)] == [[b"broadcast"]] * 4 + [[]]


def test_newer_news_of_one_name_replace_older() -> None:
    queue = BroadcastQueue(4)
    queue.put("a", b"old")
    take(queue)
    queue.put("a", b"new")
    assert take(queue) == [b"new"]
    assert len(queue) == 1


def test_least_sent_first_then_newest() -> None:
    queue = BroadcastQueue(4)
    queue.put("a", b"1")
    assert take(queue) == [b"1"]
    queue.put("b", b"2")
    queue.put("c", b"3")
    assert take(queue) == [b"3", b"2", b"1"]
    assert take(queue, count=1) != [b"1"]


def test_what_does_not_fit_waits() -> None:
    queue = BroadcastQueue(4)
    queue.put("small", b"s" * 10)
    queue.put("large", b"l" * 100)
    assert take(queue, space_bytes=50) == [b"s" * 10]
    assert take(queue, space_bytes=1) == []
    assert "large" in queue


class QueueMachine(RuleBasedStateMachine):
    """No datagram above its size, no broadcast above its limit, the newest wins."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = BroadcastQueue(2)
        self.newest: dict[str, bytes] = {}
        self.sent: Counter[bytes] = Counter()
        self.serial = 0

    @rule(name=st.sampled_from("abcdef"), size=st.integers(8, 60))
    def put(self, name: str, size: int) -> None:
        self.serial += 1
        message = f"{name}{self.serial:07}".encode().ljust(size, b".")
        self.newest[name] = message
        self.queue.put(name, message)

    @rule(space_bytes=st.integers(0, 200), count=st.integers(0, 5))
    def take(self, space_bytes: int, count: int) -> None:
        messages = take(self.queue, space_bytes, count)
        assert len(messages) <= count
        assert sum(len(m) + 2 for m in messages) <= space_bytes
        for message in messages:
            assert self.newest[message[:1].decode()] == message
            self.sent[message] += 1
            assert self.sent[message] <= self.queue.limit(2)

    @invariant()
    def indexes_agree(self) -> None:
        self.queue.check_invariants()


TestQueue = QueueMachine.TestCase


@given(st.integers(1, 40))
def test_nothing_is_lost_while_waiting(count: int) -> None:
    queue = BroadcastQueue(2)
    for number in range(count):
        queue.put(str(number), b"%d" % number)
    seen: set[bytes] = set()
    while messages := take(queue, space_bytes=12):
        seen.update(messages)
    assert len(seen) == count
