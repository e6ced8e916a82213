"""The resolver process as a process of the operating system: how it starts, what it may do, and the host's servers.

Read `launch` (the agent's side of a start), `daemonize` (the process's side), `broker` (its two parts),
`confinement` (what one of them gives up), `layer` (how it tells what it could not), `capabilities` (what the other
one keeps) and `host_servers`.
Imports nothing of netagent.
"""
