"""Small eBPF programs, by bpf(2) itself: no compiler, no library, no file.

A program is a few instructions written out in Python, which the kernel verifies when it loads them. It stays where it
is attached when the process that attached it ends, and keeps its maps. It is identified by its name and by the
kernel's digest of its instructions, which are the same for every agent of one release; so an agent recognises a
program that an earlier agent left.

Read `system_call`, `instructions` (RFC 9669, and an assembler), `programs` (load, identify), `maps`, then where
programs are attached: `tcx` and `clsact` (network devices; `device_hooks` says which of the two this kernel has),
`cgroup` (sockets of a control group). All raise OSError. Imports nothing of ours.
"""
