"""Values as text: in parts, always the same, and YAML as well."""

from __future__ import annotations

import json

import yaml  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st

from netagent.feeds.encoding import encoded, freed
from netgossip.slices import at_once

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=20,
)


def text_of(value: object) -> str:
    return "".join(at_once(encoded(value)))


@given(JSON)
def test_a_value_encoded_in_parts_is_the_value(value: object) -> None:
    assert json.loads(text_of(value)) == value


def test_the_same_value_is_the_same_text() -> None:
    assert text_of({"b": {"d": 1, "c": 2}, "a": []}) == text_of({"a": [], "b": {"c": 2, "d": 1}})


@given(st.dictionaries(st.text(max_size=4), st.text(max_size=8), max_size=4))
def test_yaml_reads_the_same_as_json(value: dict[str, str]) -> None:
    """Traefik reads the body of its HTTP provider as YAML."""
    assert yaml.safe_load(text_of(value)) == value


@given(JSON)
def test_what_is_freed_is_empty(value: object) -> None:
    at_once(freed(value))
    assert not isinstance(value, dict | list) or not value


def test_many_values_are_freed_in_slices() -> None:
    value = {"items": [{"endpoints": [{"id": number} for number in range(1000)]}]}
    assert sum(1 for _ in freed(value)) >= 1000 // 64


def test_many_values_are_encoded_in_slices() -> None:
    slices = encoded({"services": {str(number): {"port": number} for number in range(1000)}})
    assert sum(1 for _ in slices) >= 1000
