"""Agent and resolver process, both without I/O, with cuts, restarts and delays wherever Hypothesis wants them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any, TypeAlias

import pytest
from fakes import names
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from netagent.model.ids import NetworkId
from netagent.model.sandbox import SandboxId
from netagent.resolver import protocol
from netagent.resolver.conversation import Conversation, ProcessMessage
from netagent.resolver.feed_source import MAX_WANTED
from netagent.resolver.name_table import Key, Row
from netagent.resolver.protocol import ProtocolError, reply_bytes
from netagent.resolver.session import ServedTable, Session

IDS = st.sampled_from([SandboxId(one) for one in ("s1", "s2", "s3")])


Table: TypeAlias = dict[Key, Row]


def table_of(numbers: set[int]) -> Table:
    return names.world() | dict(names.endpoint(100 + one, f"n{one}", f"10.160.2.{one}") for one in numbers)


class ConversationMachine(RuleBasedStateMachine):
    """Sockets are sets of ids on each side: `agent` and `process` hold copies of one and the same."""

    def __init__(self) -> None:
        super().__init__()
        self.conversation = Conversation("r1")
        self.agent_sockets: set[SandboxId] = set()
        self.answering = ServedTable()
        self.session: Session | None = None
        self.to_process: deque[ProcessMessage] = deque()
        self.to_agent: deque[tuple[bytes, bool]] = deque()
        self.table: Table | None = None
        self.follower: int | None = None
        self.feeds_wanted: set[NetworkId] = set()
        """Of this process."""
        self.wanted: dict[SandboxId, bool] = {}  # and whether behind a runtime

    # --- the network between them ---

    @precondition(lambda self: self.session is None)
    @rule()
    def connect(self) -> None:
        self.session = Session(self.answering, "r1")
        self.conversation.connected()
        self.collect()

    @precondition(lambda self: self.session is not None)
    @rule()
    def cut(self) -> None:
        self.session = self.follower = None
        self.to_process.clear()
        self.to_agent.clear()
        self.conversation.disconnected()

    def collect(self) -> None:
        if self.session is not None:
            self.to_process.extend(self.conversation.drain())

    @precondition(lambda self: self.to_process)
    @rule()
    def process_reads(self) -> None:
        assert self.session is not None
        outgoing = self.to_process.popleft()
        sockets = outgoing.sockets_of in self.agent_sockets
        effect = self.session.handle_request_untrusted(outgoing.payload, has_sockets=sockets)
        assert not effect.refused or outgoing.sockets_of is not None
        if effect.follow is not None:
            self.follower = effect.follow
            self.say_wanted()
        for payload in effect.replies:
            self.to_agent.append((payload, effect.sockets_of is not None))

    @precondition(lambda self: self.to_agent)
    @rule()
    def agent_reads(self) -> None:
        payload, sockets = self.to_agent.popleft()
        taken = self.conversation.handle_reply_untrusted(payload, has_sockets=sockets)
        if taken is not None:
            self.agent_sockets.add(taken)
            self.wanted[taken] = self.answering.held[taken]
        self.collect()

    # --- what happens to them ---

    @rule(numbers=st.frozensets(st.integers(1, 3), min_size=1))
    def feeds_are_asked_for(self, numbers: frozenset[int]) -> None:
        is_new = self.answering.feeds.want(tuple(NetworkId(f"{one:032x}") for one in numbers))
        self.feeds_wanted |= {NetworkId(f"{one:032x}") for one in numbers}
        if is_new:
            self.say_wanted()

    def say_wanted(self) -> None:
        if self.follower is not None:
            for message in protocol.wanted_messages(self.follower, self.answering.feeds.wanted):
                self.to_agent.append((reply_bytes(message), False))

    @rule(numbers=st.sets(st.integers(1, 5)), is_step=st.booleans())
    def publish(self, numbers: set[int], *, is_step: bool) -> None:
        before: Table = self.table or {}
        self.table = table = table_of(numbers)
        keys = {*before, *table}
        touched = {key for key in keys if before.get(key) != table.get(key)} if is_step else None
        self.conversation.set_table(table, touched)
        self.collect()

    @rule(one=IDS, behind_runtime=st.booleans())
    def add(self, one: SandboxId, behind_runtime: bool) -> None:
        self.agent_sockets.add(one)
        self.wanted[one] = behind_runtime
        self.conversation.add_sandbox(one, behind_runtime=behind_runtime)
        self.collect()

    @rule(one=IDS)
    def remove(self, one: SandboxId) -> None:
        self.conversation.remove_sandbox(one)
        self.agent_sockets.discard(one)
        self.wanted.pop(one, None)
        self.collect()

    @rule()
    def new_agent(self) -> None:
        if self.session is not None:
            self.cut()
        self.conversation = Conversation("r1")
        self.agent_sockets.clear()
        self.wanted = dict(self.answering.held)
        self.table = None

    @rule()
    def new_process(self) -> None:
        if self.session is not None:
            self.cut()
        self.answering = ServedTable()
        self.feeds_wanted.clear()
        self.wanted = {one: self.wanted[one] for one in self.agent_sockets}

    # --- what must hold ---

    @rule()
    def all_is_delivered(self) -> None:
        if self.session is None:
            self.connect()
        for _ in range(1000):
            if self.to_process:
                self.process_reads()
            elif self.to_agent:
                self.agent_reads()
            else:
                break
        assert not self.to_process
        assert self.conversation.is_talking
        assert self.answering.held == self.wanted
        assert self.conversation.wanted == self.feeds_wanted
        assert self.wanted.keys() == self.agent_sockets == self.conversation.sandbox_ids
        assert all(self.conversation.is_behind_runtime(one) is behind for one, behind in self.wanted.items())
        assert all(self.conversation.is_served(one) for one in self.wanted)
        if self.table is not None:
            assert dict(self.answering.source.rows) == self.table
            assert self.answering.complete

    @invariant()
    def a_new_agent_takes_nothing_away(self) -> None:
        if self.answering.complete:
            assert set(names.world()) <= set(self.answering.source.rows), (
                "what was always there was gone meanwhile"
            )


ConversationMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
test_conversation = ConversationMachine.TestCase


def test_a_table_that_breaks_off_removes_nothing() -> None:
    answering = ServedTable()
    session = Session(answering, "r")
    for request in (
        protocol.AgentHello(1, 1, "r"),
        protocol.Begin(2),
        protocol.Rows(3, tuple(names.world().items())),
    ):
        session.handle_request_untrusted(protocol.request_bytes(request), has_sockets=False)
    assert not answering.complete
    session.handle_request_untrusted(protocol.request_bytes(protocol.Commit(4)), has_sockets=False)
    assert answering.complete
    before = dict(answering.source.rows)
    session = Session(answering, "r")
    for request in (protocol.AgentHello(1, 1, "r"), protocol.Begin(2), protocol.Rows(3, (names.settings(),))):
        session.handle_request_untrusted(protocol.request_bytes(request), has_sockets=False)
    assert dict(answering.source.rows) == before


@pytest.mark.parametrize(
    "reply",
    [
        protocol.Done(99),
        protocol.Done(1),
        protocol.Refused(1, "no"),
        protocol.FetchedSockets(1, SandboxId("s")),
        None,
    ],
)
def test_replies_that_make_no_sense_end_the_conversation(reply: Any) -> None:
    conversation = Conversation("r")
    conversation.connected()
    with pytest.raises(ProtocolError):
        conversation.handle_reply_untrusted(
            b"junk" if reply is None else reply_bytes(reply), has_sockets=False
        )


def test_sockets_that_are_refused_are_not_offered_again() -> None:
    conversation = Conversation("r")
    conversation.connected()
    conversation.handle_reply_untrusted(
        reply_bytes(protocol.ProcessWelcome(1, protocol.VERSION, "r", False, ())), has_sockets=False
    )
    conversation.drain()
    conversation.add_sandbox(SandboxId("s"))
    (listen,) = conversation.drain()
    sequence = protocol.parse_request_untrusted(listen.payload).sequence
    conversation.handle_reply_untrusted(reply_bytes(protocol.Refused(sequence, "bad")), has_sockets=False)
    assert conversation.refused == {"s": "bad"}
    assert conversation.sandbox_ids == frozenset()
    assert list(conversation.drain()) == []


def test_an_outdated_process_gives_its_sockets_and_nothing_else_is_said() -> None:
    conversation = Conversation("new")
    conversation.set_table(names.world())
    conversation.connected()
    conversation.drain()
    welcome = protocol.ProcessWelcome(1, protocol.VERSION, "old", False, (SandboxId("s"),))
    conversation.handle_reply_untrusted(reply_bytes(welcome), has_sockets=False)
    (fetch,) = conversation.drain()
    asked = protocol.parse_request_untrusted(fetch.payload)
    assert isinstance(asked, protocol.FetchSockets)
    assert not conversation.must_replace
    taken = conversation.handle_reply_untrusted(
        reply_bytes(protocol.FetchedSockets(asked.sequence, SandboxId("s"))), has_sockets=True
    )
    assert taken == "s"
    assert conversation.must_replace
    assert list(conversation.drain()) == []


def test_a_process_of_an_earlier_state_of_the_same_release_is_replaced_with_its_sockets() -> None:
    """Its version is 1, and it knows eight types of requests: it refuses all others, without their number."""
    conversation = Conversation("r")
    conversation.set_table(names.world())
    conversation.connected()
    taken = []
    while not conversation.must_replace:
        (outgoing,) = conversation.drain()
        match protocol.parse_request_untrusted(outgoing.payload):
            case protocol.AgentHello(sequence):
                reply: protocol.Reply = protocol.ProcessWelcome(sequence, 1, "r", False, (SandboxId("s"),))
            case protocol.FetchSockets(sequence, sandbox_id):
                reply = protocol.FetchedSockets(sequence, sandbox_id)
            case protocol.FollowWanted():
                reply = protocol.Refused(0, "type 9 is unknown")
            case other:
                raise AssertionError(other)
        has_sockets = isinstance(reply, protocol.FetchedSockets)
        taken.append(conversation.handle_reply_untrusted(reply_bytes(reply), has_sockets=has_sockets))
    assert taken == [None, "s"]
    assert list(conversation.drain()) == []


def test_as_many_wanted_networks_as_there_may_be_are_named_and_forgotten() -> None:
    conversation = Conversation("r")
    conversation.connected()
    welcome = protocol.ProcessWelcome(1, protocol.VERSION, "r", False, ())
    conversation.handle_reply_untrusted(reply_bytes(welcome), has_sockets=False)
    *_, follow = conversation.drain()
    sequence = protocol.parse_request_untrusted(follow.payload).sequence
    networks = {NetworkId(f"{number:032x}") for number in range(MAX_WANTED)}
    messages = list(protocol.wanted_messages(sequence, networks))
    for message in messages:
        assert conversation.wanted == frozenset()
        assert len(reply_bytes(message)) < protocol.MAX_MESSAGE_BYTES
        conversation.handle_reply_untrusted(reply_bytes(message), has_sockets=False)
    assert conversation.wanted == networks
    conversation.handle_reply_untrusted(reply_bytes(messages[0]), has_sockets=False)
    conversation.connected()  # the rest of the list was lost
    welcome = protocol.ProcessWelcome(sequence + 1, protocol.VERSION, "r", False, ())
    conversation.handle_reply_untrusted(reply_bytes(welcome), has_sockets=False)
    *_, follow = conversation.drain()
    sequence = protocol.parse_request_untrusted(follow.payload).sequence
    conversation.handle_reply_untrusted(reply_bytes(protocol.Wanted(sequence, ())), has_sockets=False)
    assert conversation.wanted == frozenset()


def rows_of(
    outgoing: Iterable[ProcessMessage],
) -> tuple[dict[Key, Row | None], int]:
    """The rows that are sent, and the number of their COMMIT."""
    requests = [protocol.parse_request_untrusted(one.payload) for one in outgoing]
    rows = [change for one in requests if isinstance(one, protocol.Rows) for change in one.changes]
    return dict(rows), requests[-1].sequence


def test_what_changes_while_a_table_is_on_its_way_is_sent_after_it_and_nothing_else_is_looked_at() -> None:
    conversation = Conversation("r")
    conversation.connected()
    welcome = protocol.ProcessWelcome(1, protocol.VERSION, "r", False, ())
    conversation.handle_reply_untrusted(reply_bytes(welcome), has_sockets=False)
    conversation.drain()
    keys = [next(iter(table_of({one}).keys() - names.world().keys())) for one in (1, 2, 3)]
    conversation.set_table(names.world())
    whole, sequence = rows_of(conversation.drain())
    assert whole == names.world()
    conversation.set_table(table_of({1}), keys[:1])
    conversation.set_table(table_of({1, 2}), keys[1:2])
    assert list(conversation.drain()) == []
    conversation.handle_reply_untrusted(reply_bytes(protocol.Done(sequence)), has_sockets=False)
    rows, sequence = rows_of(conversation.drain())
    assert rows.keys() == set(keys[:2])
    conversation.handle_reply_untrusted(reply_bytes(protocol.Done(sequence)), has_sockets=False)
    conversation.set_table(table_of({3}), keys[2:])  # the first two are gone, which is not said
    rows, _ = rows_of(conversation.drain())
    assert rows.keys() == {keys[2]}
