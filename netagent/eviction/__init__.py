"""Eviction of hosts that are gone: which host evicts them, what happens to what they owned, and how they return.

Read `evict` (the use-case behind `forget`), `auto_evict` and `downtime` (after long silence), `liveness_quorum`
(other hosts are asked first), `succession` (what the successor takes over), `cleanup` (local state), `rejoin` (an
evicted host comes back). netagent.membership.refusal refuses those that are compromised.
"""
