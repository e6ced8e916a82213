"""For the whole suite: a busy machine fails no property test, and SIGTERM ends it as Ctrl-C does, so that fixtures
take down what they made.

`timeout`, CI and supervisors send SIGTERM, whose default action leaves hosts of the lab and namespaces behind. Passed
on as SIGINT it becomes a KeyboardInterrupt, which pytest expects and trio knows how to deliver.
"""

from __future__ import annotations

import signal

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("netagent", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("netagent")


def pytest_configure(config: pytest.Config) -> None:
    before = signal.signal(signal.SIGTERM, _interrupt)
    config.add_cleanup(lambda: signal.signal(signal.SIGTERM, before))


def _interrupt(*_: object) -> None:
    # Once: a second one must not interrupt the fixtures. A handler, not SIG_IGN, which children would inherit.
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.raise_signal(signal.SIGINT)
