"""Questions between agents, over the gossip's request messages.

Read `messages` (the bytes), `client` (asking), `handlers` (answering).
"""
