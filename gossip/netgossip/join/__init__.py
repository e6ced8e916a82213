"""How a host enters a cluster: an invitation is made on a member, and redeemed once by the newcomer.

Read `invitation` (the token as text), `admission` (both halves of the conversation), `wire` (its bytes), `driver`
(dials the inviter). `identity` is the key whose hash is the host's id; `discovery` finds peers by multicast DNS.
Imports the modules at the top of netgossip only.
"""
