"""This host as a member: what it tells the others, and what it takes in from them.

Read `participation` (which networks this host is in), `gossip` (this host among the others), `event_queue` (events
of the gossip into the view and the journal), `restore` (the same from the journal), `host_record`.
`remote_networks` reads networks of other hosts for people. Imports `registry`, `rpc`, `datapath`, `netgossip`.
"""
