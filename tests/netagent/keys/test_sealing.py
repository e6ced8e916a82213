"""A sealed key is for one host, one run of its agent, and one key."""

from __future__ import annotations

import random

from fakes.registry import H1, H2, H3

from netagent.keys.sealing import ExchangeKey, key_id_of
from netagent.model.ids import ClusterId, HostId, KeyId
from netagent.model.ring_key import HeldKey, SealedKey

CLUSTER, ELSEWHERE = ClusterId("ab" * 16), ClusterId("cd" * 16)
KEY = bytes(range(32))
HELD = HeldKey(key_id_of(KEY, CLUSTER), 2)


def exchange(host: HostId, seed: int, cluster: ClusterId = CLUSTER) -> ExchangeKey:
    return ExchangeKey(host, cluster, random.Random(seed).randbytes)


def sealed(held: HeldKey = HELD) -> SealedKey:
    made = exchange(H1, 1).seal(KEY, held, H2, exchange(H2, 2).public)
    assert made is not None
    return made


def test_its_recipient_opens_it() -> None:
    assert exchange(H2, 2).open_untrusted(sealed(), HELD, H1) == KEY


def test_nobody_else_does_nor_does_it_mean_anything_else() -> None:
    assert exchange(H2, 3).open_untrusted(sealed(), HELD, H1) is None  # another start of its agent
    assert exchange(H3, 2).open_untrusted(sealed(), HELD, H1) is None
    assert exchange(H2, 2).open_untrusted(sealed(), HELD, H3) is None  # not from whom it came
    assert exchange(H2, 2).open_untrusted(sealed(), HELD._replace(number=3), H1) is None
    assert exchange(H2, 2, ELSEWHERE).open_untrusted(sealed(), HELD, H1) is None
    named = HeldKey(KeyId("12" * 16), 2)
    assert exchange(H2, 2).open_untrusted(sealed(named), named, H1) is None  # not the key that it says it is


def test_keys_of_low_order_are_refused() -> None:
    assert exchange(H1, 1).seal(KEY, HELD, H2, bytes(32)) is None
    assert exchange(H2, 2).open_untrusted(sealed()._replace(ephemeral=bytes(32)), HELD, H1) is None
