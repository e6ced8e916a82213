"""The envelope around a member's meta: a proof in it, and whatever else may stand there."""

from __future__ import annotations

import msgpack
from hypothesis import given
from hypothesis import strategies as st

from netgossip.codec.meta import (
    META_LIMIT_BYTES,
    PROOF_LIMIT_BYTES,
    split_proof,
    unwrap_meta_untrusted,
    with_proof,
    without_proof,
    wrap_meta,
)

PROOF = bytes(range(PROOF_LIMIT_BYTES))
VALUES = st.recursive(
    st.none() | st.integers(-9, 2**64 - 1) | st.binary(max_size=99) | st.text(max_size=9) | st.floats(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=9,
)


def test_a_proof_fits_beside_the_longest_meta_and_leaves_the_rest_as_it_is() -> None:
    bare = wrap_meta(65535, bytes(META_LIMIT_BYTES))
    proven = with_proof(bare, PROOF)
    assert len(proven) <= 512
    assert unwrap_meta_untrusted(proven) == unwrap_meta_untrusted(bare)
    assert split_proof(proven) == (without_proof(bare), PROOF)
    assert with_proof(with_proof(bare, bytes(PROOF_LIMIT_BYTES)), PROOF) == proven


def test_later_positions_are_covered_by_the_proof() -> None:
    covered = {
        split_proof(msgpack.packb([1, 7957, b"m", PROOF, *more]))[0] for more in ([], [1], [2], [1, 2])
    }
    assert len(covered) == 4


@given(st.binary(max_size=512) | VALUES.map(msgpack.packb).map(lambda packed: packed[:512]))
def test_whatever_a_meta_is_it_has_a_proof_of_the_right_length_or_none(meta: bytes) -> None:
    covered, proof = split_proof(meta)
    assert len(proof) in (0, PROOF_LIMIT_BYTES)
    assert len(covered) <= len(meta)
