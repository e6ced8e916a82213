"""Does a host's kernel answer, and what do the paths to it carry? Asked through the overlay itself.

Read `liveness`, `path` and `quality`, `checksum`, then `echo`, which sends what these decide. `liveness_votes` asks
other hosts about a suspect; `reach` says which hosts names may lead to. Imports `model`.
"""
