"""How metrics are made and written, for both processes; and those of the resolver process, which both of them serve.

Read `family` (how one is made), `text` (how all are written), then `dns_families` and `process_families`. Imports no
other folder: the resolver process loads it only while the agent is away.
"""
