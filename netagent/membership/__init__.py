"""This host as a member: what it tells the other hosts, and what it takes in from them.

Read `participation` (which networks this host is in), `gossip` (the gossip node of one run), `event_queue` (gossip
events into the view and the journal), `restore` (the same from the journal), `host_record`. `remote_networks` reads
networks of other hosts for people. Imports `registry`, `rpc`, `datapath`, `netgossip`.
"""
