"""Keys of the tunnel."""

from __future__ import annotations

import pytest

from netagent.tunnel.keys import preshared_key, private_key_from, public_key_of

A, B = bytes(range(32)), bytes(range(1, 33))


def test_a_private_key_is_clamped_and_its_public_half_is_that_of_rfc_7748() -> None:
    alice = bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
    key = private_key_from(alice)
    assert key[0] & 7 == 0
    assert key[31] & 0xC0 == 0x40
    assert private_key_from(key) == key
    public = "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
    assert public_key_of(key).hex() == public
    with pytest.raises(ValueError, match="31 octets"):
        private_key_from(bytes(31))


def test_both_hosts_derive_the_same_key_and_another_one_each_day() -> None:
    assert preshared_key(b"ring", A, B, 5) == preshared_key(b"ring", B, A, 5)
    different = {
        preshared_key(b"ring", A, B, 5),
        preshared_key(b"ring", A, B, 6),
        preshared_key(b"other", A, B, 5),
        preshared_key(b"ring", A, A, 5),
    }
    assert len(different) == 4
    assert all(len(one) == 32 for one in different)
