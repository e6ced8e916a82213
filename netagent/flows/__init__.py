"""Flows: who opened connections to whom, from what the kernel has counted at this host's ports.

Read `sources` (whose port it is, also after it is gone) and `flow` (a counted flow with the names of its ends).
Imports `datapath.flows` and `registry`.
"""
