"""The wire format of HashiCorp memberlist: bytes to values and back, without state.

Read `messages` (the values and how they are written), `parse` (the untrusted reader), then `sealing` (the label and
AES-GCM around each message). `lzw` decompresses, `meta` is our envelope around a member's meta. Imports only the
modules at the top of netgossip.
"""
