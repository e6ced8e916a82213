"""For the whole suite: a busy machine fails no property test, and SIGTERM ends it as Ctrl-C does, so that fixtures
take down what they made.

`timeout`, CI and supervisors send SIGTERM, whose default action leaves hosts of the lab and namespaces behind. Passed
on as SIGINT it becomes a KeyboardInterrupt, which pytest expects and trio knows how to deliver.

Each lab has a folder of its own, so tests of two checkouts can run side by side.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from netlab.lab import Lab

_numbers = itertools.count(1)

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
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell without job control has started us in the background.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    before = signal.signal(signal.SIGTERM, _interrupt)

    def restore() -> None:
        signal.signal(signal.SIGTERM, before)

    config.add_cleanup(restore)


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
