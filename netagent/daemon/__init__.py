"""The agent: composition root, start and stop, joining and leaving a cluster.

Read `agent` (the process), `cluster` (everything that runs while this host is a member), `controllers` (what follows
from each snapshot), `join`, `leave`, `withdraw`, `peer_discovery`, `runtimes`. Imports everything but `commands`,
`cli` and `install`.
"""
