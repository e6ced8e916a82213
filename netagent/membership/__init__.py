"""A host's life in a cluster: entering, finding peers, hearing of records and members, taking part in networks."""
