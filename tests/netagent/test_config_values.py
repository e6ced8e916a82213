"""Kinds of values: what TOML, a variable or a flag may say, and the reasons why not."""

from __future__ import annotations

from typing import Any

import pytest

from netagent import config_values as kind


@pytest.mark.parametrize(
    ("parse", "given", "meant"),
    [
        (kind.boolean, "Yes", True),
        (kind.boolean, "0", False),
        (kind.boolean, False, False),
        (kind.number(1, 9), "9", 9),
        (kind.texts, "eth0, eth1,", ("eth0", "eth1")),
        (kind.texts, ["eth0"], ("eth0",)),
        (kind.optional_address, "2001:DB8::0001", "2001:db8::1"),
        (kind.optional_address, "", None),
        (kind.optional_path, "", None),
        (kind.optional_name, "", ""),
        (kind.optional_name, "rack7", "rack7"),
        (kind.domain, "mesh.example.", "mesh.example"),
        (kind.domain, "", None),
        (kind.pools, "10.0.0.0/12,172.16.0.0/20", ("10.0.0.0/12", "172.16.0.0/20")),
    ],
)
def test_both_forms_are_understood(parse: Any, given: object, meant: object) -> None:
    assert parse(given) == meant


@pytest.mark.parametrize(
    ("parse", "given", "reason"),
    [
        (kind.boolean, 2, "true or false"),
        (kind.number(1, 9), 10, "between 1 and 9"),
        (kind.number(1, 9), True, "whole number"),
        (kind.number(1, 9), 1.5, "whole number"),
        (kind.texts, [1], "list of texts"),
        (kind.path, "etc", "absolute"),
        (kind.path, "/run\0", "absolute"),
        (kind.optional_path, 0, "must be text"),
        (kind.optional_name, 0, "must be text"),
        (kind.name, "A", "DNS label"),
        (kind.domain, "...", "domain name"),
        (kind.pools, "fd00::/48", "ULA prefix"),
        (kind.pools, "10.0.0.1/8", "host bits"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_reason(parse: Any, given: object, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse(given)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("192.0.2.1", ("192.0.2.1", None)),
        ("h1.example.net:7956", ("h1.example.net", 7956)),
        ("2001:db8::1", ("2001:db8::1", None)),
        ("[2001:db8::1]:7956", ("2001:db8::1", 7956)),
        ("[2001:db8::1]", ("2001:db8::1", None)),
    ],
)
def test_seeds_have_the_usual_forms(text: str, expected: tuple[str, int | None]) -> None:
    assert kind.parse_seed(text) == expected


@pytest.mark.parametrize(
    "text", ["", ":7956", "h1 h2", "h1..example", ".example", "h" * 64, "[2001:db8::1", "[]:1"]
)
def test_what_can_be_no_host_is_no_seed(text: str) -> None:
    with pytest.raises(ValueError, match="is not"):
        kind.parse_seed(text)
