"""Replicated records: one log per owner and scope, written only by its owner.

Read `table`, `record_log` and `merge` (what is stored), `dissemination` (pushes) and `anti_entropy` (repair), then
`handlers` (what each message does) and `replication`, which puts the parts together. `transport`, `frames` and `wire`
carry messages to and from the network. Imports `netgossip.join` for streams that newcomers open, and the modules at
the top of netgossip; nothing of `membership`.
"""
