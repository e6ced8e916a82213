"""The life of a host that is gone: how it is evicted, by whom, what becomes of what it owned, and how it returns.

Read `evict` (the use-case behind `forget`), `auto_evict` and `downtime` (after long silence), `liveness_quorum`
(other hosts are asked first), `succession` (who inherits), `cleanup` (local state), `rejoin` (an evicted host comes
back).
"""
