"""Answers about ten thousand endpoints: nothing that is worked out holds the agent's event loop up for long."""

from __future__ import annotations

import gc
import ipaddress
import time
from typing import TypeVar

import pytest
from fakes.registry import H1, H2, N1, N2, Writer, endpoint, entry, network

from netagent.commands.inspect import inspect_thing
from netagent.control.present import Presenter, ProbeView
from netagent.membership.approach import approach
from netagent.membership.remote_networks import _with_log
from netagent.registry.record_codec import scope_of
from netagent.registry.shared_names import shared_names
from netagent.registry.view import RegistryView
from netagent.resolver.explain_name import explain
from netgossip.slices import Slices
from netgossip.types import Log

T = TypeVar("T")
ENDPOINTS = 10_000
LONGEST_S = 0.08
"""Of CPU, four times what a machine at rest takes at most; all of it at once takes several times as long."""


def longest(slices: Slices[T]) -> tuple[T, float]:
    """The result, and the CPU time of the longest slice; collections of garbage are netagent.memory's affair."""
    worst = 0.0
    gc.collect()
    gc.disable()
    try:
        while True:
            began = time.thread_time()
            try:
                next(slices)
            except StopIteration as end:
                return end.value, max(worst, time.thread_time() - began)
            worst = max(worst, time.thread_time() - began)
    finally:
        gc.enable()


@pytest.fixture(scope="module")
def base() -> RegistryView:
    view, writer = RegistryView(H1), Writer(H1)
    for record in (
        network(N1, "app", subnets=("10.0.0.0/16", "fd00:1::/64")),
        network(N2, "back", subnets=("10.9.0.0/24",)),
    ):
        view = view.with_entries(writer.put(record))
    return view


@pytest.fixture(scope="module")
def reported(base: RegistryView) -> tuple[RegistryView, float]:
    """With one host's ten thousand endpoints in a network that this one takes no part in."""
    entries = {}
    first = [ipaddress.ip_address(text) for text in ("10.0.0.2", "fd00:1::2")]
    for number in range(ENDPOINTS):
        record = endpoint(
            number,
            addresses=tuple(str(one + number) for one in first),
            mac=f"0a:00:00:00:{number >> 8:02x}:{number & 255:02x}",
            service=f"web-{number}",
            aliases=("web",),
        )
        one = entry(H2, record, number + 1)
        entries[one.key] = one
    log = Log(scope_of(N1), H2, 1, ENDPOINTS, 0, entries)
    return longest(_with_log(base, log))


def test_what_was_fetched_is_put_in_place_slice_by_slice(
    base: RegistryView, reported: tuple[RegistryView, float]
) -> None:
    view, worst_s = reported
    assert len(view.endpoints) == ENDPOINTS
    assert worst_s < LONGEST_S
    same, worst_s = longest(approach(view, base, frozenset({scope_of(N1)})))
    assert same is view
    assert worst_s < LONGEST_S
    less, worst_s = longest(approach(view, base, frozenset()))
    assert not less.endpoints
    assert worst_s < LONGEST_S


@pytest.mark.parametrize("thing", ["web", "app", "web-77", "10.0.3.7", "c" * 12])
def test_inspect_has_no_long_slice(reported: tuple[RegistryView, float], thing: str) -> None:
    present = Presenter(reported[0], "mesh.internal", {}, {N1: (H2,)})

    def looking() -> Slices[object]:
        try:
            return (yield from inspect_thing(present, thing, lambda _: ProbeView()))
        except Exception as error:
            return type(error).__name__

    found, worst_s = longest(looking())
    assert found
    assert worst_s < LONGEST_S


@pytest.mark.parametrize("name", ["web-77", "wep"])
def test_lookup_has_no_long_slice(reported: tuple[RegistryView, float], name: str) -> None:
    found, worst_s = longest(
        explain(reported[0], {}, domain="mesh.internal", name=name, rtype="A", beyond=[N1])
    )
    assert found.reason
    assert worst_s < LONGEST_S


def test_looking_for_shared_names_has_no_long_slice(
    reported: tuple[RegistryView, float],
) -> None:
    found, worst_s = longest(shared_names(reported[0]))
    assert found == ()
    assert worst_s < LONGEST_S
