"""Whether a host's kernel answers, and what the paths to it carry, tested through the overlay itself.

Read `schedule` (who is tested next, and what is on its way; `netagent ping` uses it too), then `liveness`, `path` and
`quality`, `checksum`, then `echo`, which sends what these decide. `liveness_votes` asks other hosts about a suspect;
`reach` decides which hosts names may lead to. Imports `model`, and the deadlines of netgossip.
"""
