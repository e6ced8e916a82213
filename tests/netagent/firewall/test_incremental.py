"""The rule set made step by step is the one made from scratch, and its sets tell where to look for what changed."""

from __future__ import annotations

import dataclasses

from hypothesis import given, settings
from hypothesis import strategies as st

from netagent.firewall.incremental import MAX_STEPS, RulesetBuilder, SetElements
from netagent.firewall.inputs import FirewallInput, GuardedEndpoint, GuardedNetwork, PortForward
from netagent.firewall.ruleset import EGRESS_BRIDGES, KINDS, SENDERS, ruleset_of

NETWORKS = (
    GuardedNetwork(bridge="na-1", bridge_mac="06:00:00:00:00:01", tunnel="nx-1"),
    GuardedNetwork(bridge="na-2", bridge_mac="06:00:00:00:00:02", tunnel="nx-2", restricted=True),
)


def endpoint(number: int, network: int = 0, address: int | None = None) -> GuardedEndpoint:
    low = number if address is None else address
    return GuardedEndpoint(
        veth=f"nv{number}",
        mac=f"02:0a:00:00:{number // 256:02x}:{number % 256:02x}",
        addresses=(f"10.66.{low // 256}.{low % 256}", f"fd66::{low:x}"),
        bridge=f"na-{network + 1}",
    )


# Few numbers, so that endpoints come back, change, and have addresses that others have: networks may overlap.
ENDPOINTS = st.dictionaries(
    st.integers(0, 5), st.tuples(st.integers(0, 2), st.integers(0, 3)), max_size=6
).map(lambda found: tuple(endpoint(n, network, address) for n, (network, address) in found.items()))
PORT_FORWARDS = st.sampled_from(
    [(), (PortForward(protocol="udp", host_port=53, container="10.66.0.1", port=53),)]
)
INPUTS = st.builds(
    FirewallInput,
    vxlan_port=st.just(4799),
    endpoints=ENDPOINTS,
    networks=st.sampled_from([NETWORKS, NETWORKS, NETWORKS[:1]]),
    port_forwards=PORT_FORWARDS,
)


@given(st.lists(INPUTS, min_size=2, max_size=8))
@settings(max_examples=200)
def test_step_by_step_leads_to_what_is_made_from_scratch_and_touches_all_that_differs(
    inputs: list[FirewallInput],
) -> None:
    maker = RulesetBuilder()
    made = [maker.make(one) for one in inputs]
    for one, ruleset in zip(inputs, made, strict=True):
        assert ruleset == ruleset_of(one)
    for number, later in enumerate(made):
        for earlier in made[: number + 1]:
            for kind in KINDS:
                old, new = earlier.elements[kind], later.elements[kind]
                touched = new.touched_since(old) if isinstance(new, SetElements) else None
                differing = {key for key in old.keys() | new.keys() if old.get(key) != new.get(key)}
                assert touched is None or differing <= touched


def test_one_endpoint_among_a_thousand_concerns_its_own_elements() -> None:
    known = FirewallInput(
        vxlan_port=4799, endpoints=tuple(map(endpoint, range(1000))), networks=NETWORKS, clamps={}
    )
    maker = RulesetBuilder()
    before = maker.make(known)
    after = maker.make(dataclasses.replace(known, endpoints=(*known.endpoints, endpoint(1000)), clamps={}))
    touched = {
        kind: new.touched_since(before.elements[kind])
        for kind, new in after.elements.items()
        if new is not before.elements[kind] and isinstance(new, SetElements)
    }
    assert touched[SENDERS] == {("nv1000", endpoint(1000).mac)}
    assert sum(len(keys) for keys in touched.values() if keys is not None) <= 10
    assert None not in touched.values()
    assert after.elements[EGRESS_BRIDGES] is before.elements[EGRESS_BRIDGES]


def test_whoever_knows_a_set_of_long_ago_compares_all() -> None:
    maker = RulesetBuilder()
    made = [
        maker.make(FirewallInput(vxlan_port=4799, endpoints=(endpoint(n),), networks=NETWORKS))
        for n in range(MAX_STEPS + 2)
    ]
    senders = [one.elements[SENDERS] for one in made]
    first, last = senders[0], senders[-1]
    assert isinstance(first, SetElements)
    assert isinstance(last, SetElements)
    assert last.touched_since(first) is None
    assert last.touched_since(senders[1]) is not None
    assert first.touched_since(last) is None
