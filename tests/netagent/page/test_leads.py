"""Names and addresses in findings lead to their objects."""

from __future__ import annotations

import pytest
from fakes.registry import H1, H2, N1, Writer, endpoint, host, network
from hypothesis import given
from hypothesis import strategies as st

from netagent.model.records import Record
from netagent.page.leads import MAX_LEADS, leads_of
from netagent.registry.view import RegistryView


def small_cluster() -> RegistryView:
    one, other = Writer(H1), Writer(H2)
    view = RegistryView(H1)
    said: list[tuple[Writer, Record]] = [
        (one, host("h1")),
        (other, host("h2")),
        (one, network(N1, "app", vni=8388608)),
        *((other, endpoint(number, offset=number + 1)) for number in range(1, 9)),
    ]
    for writer, record in said:
        view = view.with_entries(writer.put(record))
    return view


VIEW = small_cluster()
WEB3 = next(one for one in VIEW.endpoints.values() if one.record.name == "web3")


@pytest.mark.parametrize(
    ("sentence", "parts", "names"),
    [
        ("neighbour {address} on na-8388608 is missing", ["endpoints", "networks"], ["web3", "app"]),
        ("the agent of h2 does not answer", ["hosts"], ["h2"]),
        ("web3, on h2: no answer", ["endpoints", "hosts"], ["web3", "h2"]),
        ("entry h2; h2 (h2)", ["hosts"], ["h2"]),
        ("UDP port 4799 is taken by `foo`", [], []),
        ("", [], []),
    ],
)
def test_what_a_sentence_names_is_found(sentence: str, parts: list[str], names: list[str]) -> None:
    leads = leads_of(VIEW, sentence.format(address=WEB3.record.addresses[0]))
    assert [one["part"] for one in leads] == parts
    assert [one["name"] for one in leads] == names


def test_a_sentence_leads_to_few_things_and_to_each_once() -> None:
    everything = " ".join(one.record.name for one in VIEW.endpoints.values())
    assert len(leads_of(VIEW, everything * 1000, everything)) == MAX_LEADS


@given(st.text(max_size=2000))
def test_no_text_breaks_it(text: str) -> None:
    assert len(leads_of(VIEW, text, f"{text} h2")) <= MAX_LEADS
