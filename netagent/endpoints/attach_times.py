"""How long attaching takes, by runtime and stage, and how often it fails."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

from netgossip.histogram import Histogram

K = TypeVar("K")

BOUNDS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
RUNTIMES: Final = frozenset({"cni", "docker", "machine", "netns", "pid", "podman", "unit"})
OTHER: Final = "other"


def runtime_of(target: str, origin: str | None) -> str:
    """Return which runtime, or kind of target, an attach is of: one of a closed set."""
    kind = (origin or target).partition(":")[0]
    if target.startswith("/") and origin is None:
        kind = "netns"
    return kind if kind in RUNTIMES else OTHER


class Stages:
    """The stages of one attach."""

    def __init__(self, times: AttachTimes, runtime: str, began_at: float) -> None:
        self._times = times
        self._runtime = runtime
        self._began_at = began_at

    def end(self, stage: str) -> None:
        """Note that a stage has ended, and the next one begins. Stages have fixed names: they become labels."""
        now = self._times.clock()
        self._times.note_stage(self._runtime, stage, now - self._began_at)
        self._began_at = now


class AttachTimes:
    """Counts the attaches of this host's endpoints since the start."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.stages: dict[tuple[str, str], Histogram] = {}
        """By runtime and stage."""
        self.totals: dict[tuple[str], Histogram] = {}
        """By runtime, those that succeeded."""
        self.failures: Counter[tuple[str]] = Counter()

    @contextmanager
    def attach(self, target: str, origin: str | None = None) -> Iterator[Stages]:
        """Measure a block that attaches."""
        runtime, began_at = runtime_of(target, origin), self.clock()
        try:
            yield Stages(self, runtime, began_at)
        except Exception:
            self.failures[runtime,] += 1
            raise
        _of(self.totals, (runtime,)).observe(self.clock() - began_at)

    @contextmanager
    def step(self, stage: str, target: str, origin: str | None = None) -> Iterator[None]:
        """Measure a block that is one stage, where a runtime attaches in several calls."""
        runtime, began_at = runtime_of(target, origin), self.clock()
        try:
            yield
        except Exception:
            self.failures[runtime,] += 1
            raise
        self.note_stage(runtime, stage, self.clock() - began_at)

    def note_stage(self, runtime: str, stage: str, took_s: float) -> None:
        """Count how long a stage took."""
        _of(self.stages, (runtime, stage)).observe(took_s)


def _of(found: dict[K, Histogram], key: K) -> Histogram:
    return found.setdefault(key, Histogram(BOUNDS_S))
