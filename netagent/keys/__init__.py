"""Ring keys that change while the cluster runs: who makes a new one, when it is used, when an old one goes.

Read `stages` (what a host does, decided from what it sees of the others), then `sealing` (a key for one other host).
"""
