"""What hosts know of their paths: the bytes of question and answer."""

from __future__ import annotations

import msgpack
import pytest
from fakes.registry import identifier
from hypothesis import given
from hypothesis import strategies as st

from netagent.model.ids import HostId
from netagent.rpc import messages
from netagent.rpc.messages import QuestionError
from netagent.rpc.paths import (
    MAX_HOSTS,
    STATES,
    KnownPath,
    encode_answer,
    encode_question,
    parse_answer_untrusted,
    parse_question_untrusted,
)
from netgossip.records.wire import PAYLOAD_LIMIT_BYTES

HOSTS = tuple(HostId(identifier(number)) for number in range(MAX_HOSTS))
PATHS = st.builds(
    KnownPath,
    st.sampled_from(STATES),
    st.none() | st.integers(0, 60_000_000),
    st.none() | st.integers(0, 1000),
    st.none() | st.integers(0, 65_535),
)


def test_a_question_comes_back_as_it_was_and_fits() -> None:
    payload = encode_question(HOSTS)
    assert messages.kind_of(payload) == messages.PATHS
    assert len(payload) <= PAYLOAD_LIMIT_BYTES
    assert parse_question_untrusted(payload) == HOSTS
    with pytest.raises(QuestionError, match="hosts"):
        parse_question_untrusted(encode_question((*HOSTS, HOSTS[0])))


@given(st.lists(PATHS, max_size=MAX_HOSTS))
def test_an_answer_comes_back_as_it_was(paths: list[KnownPath]) -> None:
    answer = parse_answer_untrusted(encode_answer(paths), HOSTS)
    assert answer == dict(zip(HOSTS, paths, strict=False))


def test_the_largest_answer_fits() -> None:
    worst = KnownPath(STATES[-1], 60_000_000, 1000, 65_535)
    assert len(encode_answer([worst] * MAX_HOSTS)) <= 600


def test_a_later_release_may_know_more() -> None:
    row = [200, 1, 2, 3, True, "appended"]
    found = parse_answer_untrusted(msgpack.packb([messages.PATHS, [row], "appended"]), HOSTS)
    assert found == {HOSTS[0]: KnownPath("unknown", 1, 2, 3, True)}


def test_an_earlier_release_knows_of_no_encryption() -> None:
    found = parse_answer_untrusted(msgpack.packb([messages.PATHS, [[1, 1, 2, 3]]]), HOSTS)
    assert found == {HOSTS[0]: KnownPath("ok", 1, 2, 3, False)}


@given(
    st.binary(max_size=800) | st.recursive(st.none() | st.integers(-9, 1 << 60), st.lists).map(msgpack.packb)
)
def test_a_wrong_answer_raises_one_error(payload: bytes) -> None:
    for parse in (parse_question_untrusted, lambda one: parse_answer_untrusted(one, HOSTS)):
        with pytest.raises(QuestionError):
            parse(payload)


@pytest.mark.parametrize(
    "row", [[1, -1, 0, 0], [1, None, 1001, None], [1, None, None, 1 << 17], [1], "ok", [True]]
)
def test_a_wrong_path_is_refused(row: object) -> None:
    with pytest.raises(QuestionError):
        parse_answer_untrusted(msgpack.packb([messages.PATHS, [row]]), HOSTS)
