"""The cache: never past a TTL, never past its bounds, least recently used first."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from netdns.cache import FAILURE_BYTES, Cache, CacheKey
from netdns.opaque import OpaqueAnswer
from netdns.servers import UpstreamServer


def key(number: int) -> CacheKey:
    return CacheKey((UpstreamServer("192.0.2.1", 53),), bytes([1, number, 0]), 1, False, False)


def answer(size: int) -> OpaqueAnswer:
    return OpaqueAnswer(rcode=0, body=bytes(size), ends=(), ttls=(), question_bytes=7, keep_s=60)


def test_gone_when_the_ttl_is_over() -> None:
    cache = Cache(max_entries=10, max_bytes=10_000)
    cache.put(key(1), answer(10), 5, 100.0)
    assert cache.get(key(1), 104.99) is not None
    assert cache.get(key(1), 105.0) is None
    assert len(cache) == 0
    cache.check_invariants()


def test_zero_is_not_kept_and_replaces_what_was() -> None:
    cache = Cache(max_entries=10, max_bytes=10_000)
    cache.put(key(1), answer(10), 5, 0.0)
    cache.put(key(1), answer(10), 0, 1.0)
    assert cache.get(key(1), 1.0) is None


def test_least_recently_used_goes_first() -> None:
    cache = Cache(max_entries=2, max_bytes=10_000)
    cache.put(key(1), None, 60, 0.0)
    cache.put(key(2), None, 60, 0.0)
    assert cache.get(key(1), 1.0) is not None
    cache.put(key(3), None, 60, 2.0)
    assert cache.get(key(2), 2.0) is None
    assert cache.get(key(1), 2.0) is not None
    assert cache.size_bytes == 2 * FAILURE_BYTES


steps = st.tuples(st.integers(0, 12), st.integers(0, 400), st.integers(0, 20), st.floats(0, 5))


@given(st.lists(steps, max_size=60))
def test_bounds_hold_whatever_is_put(rows: list[tuple[int, int, int, float]]) -> None:
    cache, now = Cache(max_entries=5, max_bytes=1500), 0.0
    model: dict[CacheKey, float] = {}
    for number, size, keep_s, wait_s in rows:
        now += wait_s
        kept = cache.get(key(number), now)
        assert kept is None or now < model[key(number)]
        cache.put(key(number), answer(size), keep_s, now)
        model[key(number)] = now + keep_s
        cache.check_invariants()
