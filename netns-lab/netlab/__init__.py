"""A lab of whole hosts on one machine: for the tutorial, the demo and the multi-host tests.

A host is a set of namespaces: network, mounts, processes, host name. It has an `/etc`, a `/var` and a `/run` of its
own, and a process 1 whose death ends everything in it at once, as a cut power cable would. One bridge connects the
hosts, the *fabric*, which is in a namespace too: nothing is ever added to the machine's own network.

Only the standard library is imported here, so `lab` runs with any Python that the product runs with.
"""
