"""Membership and replicated records for a cluster without a centre; `node.GossipNode` is the machine."""
