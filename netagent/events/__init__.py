"""Events: what happened on this host and who or what caused it, kept over restarts.

Read `kinds`, `event` (one event and its line in the file), `event_log` (which of them are kept), `channel` (how a log
line becomes one), `file` (the file). What happens elsewhere is noticed in `netagent.events.sources`.
"""
