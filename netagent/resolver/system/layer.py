"""The layers that confine the part of the resolver process that answers, and how the process tells which it lacks."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class Layer(StrEnum):
    """One of those that `confinement` describes."""

    BOUNDING_SET = "bounding_set"
    USER = "user"
    CAPABILITIES = "capabilities"
    LANDLOCK = "landlock"
    SYSTEM_CALLS = "system_calls"

    @property
    def counter(self) -> str:
        """The name of the process's number that is 1 if it lacks the layer."""
        return f"lacks_{self}"


def missing_layers(statistics: Mapping[str, int]) -> list[Layer]:
    """The layers that a process lacks, by its numbers. One of a release that does not tell seems to lack none."""
    return [layer for layer in Layer if statistics.get(layer.counter)]
