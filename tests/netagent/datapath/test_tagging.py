"""When a tag is of use. What it does is for tests/kernel/test_tagging.py."""

from __future__ import annotations

import pytest

from netagent.datapath.tagging import is_wanted

CALL4, CALL6, TAGGED_TOO = (
    "bridge-nf-call-iptables",
    "bridge-nf-call-ip6tables",
    "bridge-nf-filter-vlan-tagged",
)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, False),  # the kernel has no bridge netfilter, or it is not loaded
        ({CALL4: 0, CALL6: 0, TAGGED_TOO: 0}, False),
        ({CALL4: 1, CALL6: 0, TAGGED_TOO: 0}, True),
        ({CALL4: 0, CALL6: 1}, True),
        ({CALL4: 1, CALL6: 1, TAGGED_TOO: 1}, False),
    ],
)
def test_a_tag_is_of_use_where_bridge_netfilter_looks_at_frames_without_one_only(
    tmp_path, settings, expected
):
    for name, value in settings.items():
        (tmp_path / name).write_text(f"{value}\n")
    assert is_wanted(tmp_path) is expected
