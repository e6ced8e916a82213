"""How a host joins a cluster: a member creates an invitation, and the newcomer redeems it once.

Read `invitation` (the token as text), `admission` (both halves of the conversation), `wire` (its bytes),
`conversation_keys` (what seals it), `driver` (dials the inviter). `readmission` is how a host returns whose keys are
of yesterday. `identity` is the key whose hash is the host's id; `discovery` finds peers by multicast DNS. Imports the
modules at the top of netgossip, and of `codec` the sizes of keys.
"""
