"""RPC between agents, over the gossip's request messages.

Read `messages` (the bytes; `paths` and `encryption` have further ones), `client` (sending requests), `handlers`
(answering them).
"""
