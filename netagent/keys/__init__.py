"""Ring keys that change while the cluster runs: who makes a new one, when it is used, when an old one goes.

Read `stages` (what a host does, decided from what it sees of the others), `picture` (what it sees), `sealing` (a key
for one other host), then `ring_store` (this host's ring, on disk and in use) and `controller` (takes the steps).
Imports the registry, the state directory, and gossip's ring and conversations.
"""
