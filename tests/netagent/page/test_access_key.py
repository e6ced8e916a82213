"""Who may look at the page."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netagent.page.access_key import LIFE_S, AccessKeys

NOW_S = 1_796_000_000


def test_a_key_opens_until_it_expires() -> None:
    keys = AccessKeys(b"s" * 32)
    key, expires_s = keys.issue(NOW_S)
    assert expires_s == NOW_S + LIFE_S
    assert keys.expiry_untrusted(key, NOW_S) == expires_s
    assert keys.expiry_untrusted(key, expires_s - 1) == expires_s
    assert keys.expiry_untrusted(key, expires_s) is None
    assert AccessKeys(b"s" * 32).expiry_untrusted(key, NOW_S) == expires_s, "the agent may have started again"
    assert AccessKeys(b"t" * 32).expiry_untrusted(key, NOW_S) is None


def test_a_key_of_a_clock_that_was_far_ahead_is_refused() -> None:
    keys = AccessKeys(b"s" * 32)
    key, _ = keys.issue(NOW_S + 3 * LIFE_S)
    assert keys.expiry_untrusted(key, NOW_S) is None


@pytest.mark.parametrize("changed", [0, 3, 9, -1])
def test_a_key_with_one_other_digit_is_refused(changed: int) -> None:
    keys = AccessKeys(b"s" * 32)
    key, _ = keys.issue(NOW_S)
    digits = list(key)
    digits[changed] = "0" if digits[changed] != "0" else "1"
    assert keys.expiry_untrusted("".join(digits), NOW_S) is None


@given(st.text(max_size=200))
def test_whatever_is_sent_is_no_key(text: str) -> None:
    assert AccessKeys(b"s" * 32).expiry_untrusted(text, NOW_S) is None
