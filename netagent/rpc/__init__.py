"""RPC between agents, over the gossip's request messages.

Read `messages` (the bytes), `client` (sending requests), `handlers` (answering them).
"""
