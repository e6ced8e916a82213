from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from netdns.latency import BOUNDS_US, Latency


def test_answers_of_a_batch_count_each() -> None:
    latency = Latency()
    latency.observe(0.000_020, 64)
    latency.observe(9.0)
    found = latency.statistics("x")
    assert found["x_le_10_us"] == 0
    assert found["x_le_25_us"] == 64
    assert found["x_le_5000000_us"] == 64
    assert found["x_count"] == 65
    assert found["x_sum_us"] == 64 * 20 + 9_000_000


@given(st.lists(st.floats(min_value=0, max_value=100), max_size=50))
def test_counts_rise_with_the_bounds_and_miss_none(values: list[float]) -> None:
    latency = Latency()
    for value in values:
        latency.observe(value)
    found = latency.statistics("x")
    counts = [found[f"x_le_{bound}_us"] for bound in BOUNDS_US]
    assert counts == [sum(value * 1e6 <= bound for value in values) for bound in BOUNDS_US]
    assert found["x_count"] == len(values)
