"""The matrix shows first what is not well, and each path from its own end."""

from __future__ import annotations

from typing import Any

from netagent.model.ids import HostId
from netagent.page.path_matrix import matrix, rows_of_matrix
from netagent.rpc.paths import MAX_HOSTS, KnownPath


def member(number: int, **fields: Any) -> dict[str, Any]:
    usual = {"agent": "alive", "path": "ok", "zone": "", "address": f"192.0.2.{number}", "local": number == 0}
    return {"id": f"{number:032x}", "name": f"h{number:02}", **usual, **fields}


def test_beyond_the_bound_those_that_are_well_are_left_out() -> None:
    members = [member(number) for number in range(MAX_HOSTS + 8)]
    members[38]["path"] = "down"
    members[39]["agent"] = "dead"
    members[3]["agent"] = "left"
    chosen, left_out = rows_of_matrix(members, ())
    names = [one["name"] for one in chosen]
    assert names == sorted(names)
    assert {"h00", "h38", "h39"} < set(names)
    assert (len(names), left_out) == (MAX_HOSTS, 7)
    assert "h03" not in names


def test_a_filter_brings_hosts_in_by_any_word() -> None:
    members = [member(number) for number in range(MAX_HOSTS + 8)]
    chosen, left_out = rows_of_matrix(members, ("h37", "h01"))
    assert ([one["name"] for one in chosen], left_out) == (["h01", "h37"], 0)


def test_each_path_is_shown_from_its_own_end() -> None:
    chosen, _ = rows_of_matrix([member(0, path="local"), member(1), member(2)], ())
    ids = [HostId(one["id"]) for one in chosen]
    known = {
        ids[0]: {
            ids[0]: KnownPath("local"),
            ids[1]: KnownPath("lossy", 1500, 125, 1450),
            ids[2]: KnownPath("down"),
        },
        ids[1]: {ids[0]: KnownPath("ok", 900, 0, 1450)},
    }
    rows = matrix(chosen, known)
    assert [cell["state"] for cell in rows[ids[0]]["cells"]] == ["local", "lossy", "down"]
    assert rows[ids[0]]["cells"][1] == {
        "to": ids[1],
        "state": "lossy",
        "rtt_s": 0.0015,
        "loss_percent": 12.5,
        "mtu_bytes": 1450,
        "encrypted": False,
    }
    assert [cell["state"] for cell in rows[ids[1]]["cells"]] == ["ok", "unknown", "unknown"]
    assert (rows[ids[2]]["answered"], rows[ids[2]]["cells"]) == (False, [])
