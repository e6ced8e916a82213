"""For the whole suite: a busy machine fails no property test, and SIGTERM ends it as Ctrl-C does, so that fixtures
take down what they made.

`timeout`, CI and supervisors send SIGTERM, whose default action leaves hosts of the lab and namespaces behind. Passed
on as SIGINT it becomes a KeyboardInterrupt, which pytest expects and trio knows how to deliver.

Each lab has a folder of its own, so tests of two checkouts can run side by side.
"""

from __future__ import annotations

import functools
import gc
import itertools
import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from harness.namespaces import Namespace, NamespaceFactory, join_by_cable, throwaway_namespaces
from hypothesis import HealthCheck, settings
from netlab.lab import Lab

_numbers = itertools.count(1)
GROUP_MARKS = ("lab", "services", "boot", "runtimes", "kernel", "interop")

EXPLORING, SAME = "exploring", "same"
"""`--hypothesis-profile`: other examples each time, or, ordinarily, the same ones, so that a change answers for
itself alone."""
for profile in (EXPLORING, SAME):
    settings.register_profile(
        profile,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
        derandomize=profile == SAME,
    )
settings.load_profile(SAME)


def pytest_configure(config: pytest.Config) -> None:
    gc.disable()  # until pytest_collection_finish
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell without job control has started us in the background.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    before = signal.signal(signal.SIGTERM, _interrupt)

    def restore() -> None:
        signal.signal(signal.SIGTERM, before)

    config.add_cleanup(restore)


def pytest_collection_finish() -> None:
    """What has been collected, some million objects, stays until the end: no garbage collection looks at it again,
    nor has one looked for garbage while it came to be. That is a tenth of the processor time of all tests that only
    compute."""
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """For a group of tests, `.ci/tests` collects only the files that name one of its marks: no test may be missed."""
    text_of = functools.cache(lambda path: path.read_text(encoding="utf-8"))
    for item in items:
        for mark in item.iter_markers():
            if mark.name in GROUP_MARKS and f"mark.{mark.name}" not in text_of(item.path):
                raise pytest.UsageError(f"{item.path} does not name the mark {mark.name!r} of {item.name}")


def _interrupt(*_: object) -> None:
    # Once: a second one must not interrupt the fixtures. A handler, not SIG_IGN, which children would inherit.
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.raise_signal(signal.SIGINT)


@pytest.fixture
def churn_seed(pytestconfig: pytest.Config) -> str:
    """Of what is done in random order: ordinarily the same each time, as Hypothesis' examples are."""
    is_exploring = pytestconfig.getoption("--hypothesis-profile") == EXPLORING
    ordinary = str(random.SystemRandom().randrange(10**6)) if is_exploring else "1"
    seed = os.environ.get("NETAGENT_CHURN_SEED", ordinary)
    print(f"NETAGENT_CHURN_SEED={seed} does the same again")
    return seed


@pytest.fixture
def namespaces() -> Iterator[NamespaceFactory]:
    with throwaway_namespaces() as make:
        yield make


@pytest.fixture
def wire(namespaces: NamespaceFactory) -> tuple[Namespace, Namespace]:
    """Two namespaces joined by a cable: 192.0.2.1 and 192.0.2.2."""
    first, second = namespaces("h1"), namespaces("h2")
    join_by_cable(first, second)
    return first, second


@contextmanager
def making_labs() -> Iterator[Callable[[], Lab]]:
    """Makes labs that are not up yet, and takes them down at the end whatever happened."""
    made = []

    def make() -> Lab:
        lab = Lab(Path(f"/run/natlab-test{os.getpid()}-{next(_numbers)}"))
        made.append(lab)
        return lab

    yield make
    for lab in made:
        lab.down()


@pytest.fixture
def new_lab() -> Iterator[Callable[[], Lab]]:
    """Labs for one test."""
    with making_labs() as make:
        yield make


@pytest.fixture(scope="module")
def new_lasting_lab() -> Iterator[Callable[[], Lab]]:
    """Labs for all tests of a file."""
    with making_labs() as make:
        yield make
