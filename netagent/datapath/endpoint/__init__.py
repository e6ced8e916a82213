"""One container's interface: the veth pair, its peer inside the container's namespace, and the peer's configuration.

Read `attach` (the interface to the rest), `veth_binding` (creates or completes a pair from any state), `veth_pair`,
`guest_watch` (checks whether it is unchanged), `netns` (work inside another namespace).
Imports `datapath.netlink`, `datapath.host` and `datapath.reconcile`.
"""
