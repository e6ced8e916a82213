"""Kernel state as a pure function of the records.

    desired.py  records -> KernelState          state.py       the words for kernel state
    observe.py  dump    -> KernelState          plan.py        the difference, as operations.py
    apply.py    operations -> netlink           reconcile.py   the loop: on change, on notification, on a timer
    attach.py   one container's interface       netns.py       doing things inside a namespace
    netlink.py  the socket                      link.py, neighbour.py   the rare and the frequent messages
    probe_device.py  the host's own address on the overlay

`desired`, `state`, `plan`, `operations`, `neighbour` and `probe_device` decide and never touch the kernel.
"""
