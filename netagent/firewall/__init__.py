"""Our nftables tables as a function of the records, kept in the kernel whatever other programs do to it.

Read `inputs` (what determines the rules), `ruleset` (the contents of the sets), `text` (the rules), `element` (the
encoding of a set's elements), `driver` (the tables in the kernel), `guard` (the loop). `policy`, `publishing` and
`source_nat` are parts of the rules; `incremental` derives each rule set from the previous one. Imports two codecs of
`datapath` and nothing else.
"""
