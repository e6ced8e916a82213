"""Membership and replicated records for a cluster without a central server, as a library.

`node.GossipNode` is the state machine, `driver.Driver` runs it under trio, `testing.SimCluster` runs whole clusters
of it under virtual time. Read `types`, then `node`, then the folders in this order: `codec` (memberlist's wire
format), `membership` (SWIM with Lifeguard), `records` (one log per owner and scope), `join` (how a new host is
admitted). A folder never imports one that follows it in this list; `node` and `driver` connect them. `slices` and
`slice_runner` are the form of all long work, netagent's too.
"""
