"""Which nodes are alive: SWIM with Lifeguard, as one machine without I/O.

Read `members` (the table and its merge rule), `failure_detector` and `probe` (which member is probed, and what
silence means), `state_updates` (what others claim about members), then `swim`, which puts the parts together.
`broadcasts` and `outgoing` carry the gossip, `reconnect` looks for members that are missing. Imports
`netgossip.codec` and the modules at the top of netgossip; nothing of `records` or `join`.
"""
