"""Flows: who opened connections to whom, from what the kernels of all hosts have counted.

Read `sources` (whose port it is, also after it is gone), `departed` (who had an address and is gone), `saved_names`
(both, for the next agent), `flow` (a counted flow with the names of its ends), `filter` (which flows are asked for),
`wire` and `reader` (this host's, and those of others), and `suggest` (the links that would cover them). Imports
`datapath.flows` and `registry`.
"""
