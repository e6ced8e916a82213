"""Service addresses at the socket: a connection to a service's own address is led to one of its backends.

Eight small programs at the root of cgroup v2 run inside connect(2), sendmsg(2), recvmsg(2) and getpeername(2) of all
programs of the host, and change the address that the call names. So the socket has a backend as its real peer, and
no packet is translated, tracked or delayed. Who may use a service's address is decided by the network namespace of
the socket: it is a member of the network, or nothing happens (docs/design/0043-service-addresses-at-the-socket.md).

Read `layout` (the tables that programs and agent share), `programs` (the eight programs), `cgroup_root` (the folder
that they are attached to), `lease` (one agent at a time), `adoption` (finds, attaches and exchanges them),
`service_tables` (keeps the kernel equal to what is wanted), and `reset` (ends the sockets that lead to backends that
are gone). Imports `datapath.bpf` and other folders of `datapath`.
"""
