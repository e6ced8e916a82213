"""What CHECK sees of an interface, in this process's own namespace."""

from __future__ import annotations

from netagent.integrations.cni import netns_check


def test_an_interface_with_its_addresses_lacks_nothing() -> None:
    assert netns_check._missing("lo", ["127.0.0.1", "127.0.0.2"]) == ""


def test_what_lacks_is_named() -> None:
    assert netns_check._missing("na-none", ["127.0.0.1"]) == "the interface na-none"
    assert netns_check._missing("lo", ["127.0.0.1", "192.0.2.77"]) == "the address 192.0.2.77 on lo"
    assert netns_check._missing("lo", ["2001:db8::77"]) == "the address 2001:db8::77 on lo"
