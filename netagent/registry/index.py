"""Persistent multi-maps: one key, several values, and never an empty entry.

`immutables.Map` shares structure between versions, so a changed index costs O(log n) and leaves every older view as
it was. That an empty inner map is dropped makes equal contents equal values, which is what lets
`RegistryView.check_invariants` compare an index with one that was built anew.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TypeVar

from immutables import Map

K = TypeVar("K", bound=Hashable)
M = TypeVar("M", bound=Hashable)
V = TypeVar("V")


def put(index: Map[K, Map[M, V]], key: K, member: M, value: V) -> Map[K, Map[M, V]]:
    """With `value` at (key, member)."""
    inner: Map[M, V] = index.get(key, Map())
    return index.set(key, inner.set(member, value))


def drop(index: Map[K, Map[M, V]], key: K, member: M) -> Map[K, Map[M, V]]:
    """Without (key, member); unchanged if it is not there."""
    inner = index.get(key)
    if inner is None or member not in inner:
        return index
    inner = inner.delete(member)
    return index.set(key, inner) if inner else index.delete(key)


def add(index: Map[K, frozenset[M]], key: K, member: M) -> Map[K, frozenset[M]]:
    """With `member` in the set at `key`. For sets that stay small."""
    return index.set(key, index.get(key, frozenset()) | {member})


def remove(index: Map[K, frozenset[M]], key: K, member: M) -> Map[K, frozenset[M]]:
    """Without `member` in the set at `key`; unchanged if it is not there."""
    members = index.get(key)
    if members is None or member not in members:
        return index
    members -= {member}
    return index.set(key, members) if members else index.delete(key)


def assign(index: Map[K, V], key: K, value: V | None) -> Map[K, V]:
    """`index[key] = value`, or without `key` when `value` is None."""
    if value is not None:
        return index.set(key, value)
    return index.delete(key) if key in index else index
