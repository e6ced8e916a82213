"""Beside a count of the overview stands what a warning says."""

from __future__ import annotations

from netagent.doctor.checks.cluster_checks import CLUSTER_CHECKS, StatusWarning
from netagent.page.contents import WARNED
from netagent.registry.views import ConflictKind


def test_each_warning_about_the_cluster_has_its_count() -> None:
    """Codes of the doctor's checks of the cluster, but those about this agent alone."""
    known = {code for codes in WARNED.values() for code in codes}
    assert {kind.value for kind in ConflictKind} <= known
    about_this_agent = {"strangers", "neighbours", "configuration", "runtimes"}
    for check in CLUSTER_CHECKS:
        if check.name not in about_this_agent:
            mine = {code for code in known if list(check.examine([StatusWarning(code, "", "")]))}
            assert mine, check.name
