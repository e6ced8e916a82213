"""What `status` says of containers that are refused what is beyond their quota."""

from __future__ import annotations

from fakes.rows import NETNS, local_row

from netagent.commands.notices.quota_notices import SHOWN, query_notices
from netagent.journal.rows import Bound
from netagent.resolver.protocol import OVER_RATE


def test_a_container_that_asks_too_many_queries_is_named() -> None:
    rows = [local_row("e1" * 16, "n1" * 16, name="web1", stage=Bound(NETNS)), local_row("e2" * 16, "n1" * 16)]
    counters = {"queries": 7, f"{OVER_RATE}{NETNS.sandbox_id}": 1, f"{OVER_RATE}gone": 1}
    (notice,) = query_notices(rows, counters)
    assert (notice["code"], notice["message"].split()[0]) == ("query-quota", "web1")
    assert query_notices(rows, {"queries": 7}) == []


def test_not_all_of_many_are_named() -> None:
    rows = [
        local_row(f"{one:032x}", "n1" * 16, name=f"w{one}", stage=Bound(NETNS)) for one in range(SHOWN + 5)
    ]
    assert len(query_notices(rows, {f"{OVER_RATE}{NETNS.sandbox_id}": 1})) == SHOWN
