"""One container's interface: the veth pair, its far end inside the container's namespace, and what that end has.

Read `attach` (the face), `veth_binding` (made or finished from whatever is there), `veth_pair`, `guest_config`,
`guest_watch` (is it still as it was left?), `netns` (work inside another namespace).
Imports `datapath.netlink`, `datapath.host` and `datapath.reconcile`.
"""
