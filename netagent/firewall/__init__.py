"""Our nftables tables as a function of what is known, kept in the kernel whatever others do to it.

Read `inputs` (what rules are made of), `ruleset` (what the sets hold), `text` (the rules), `element` (bytes of a
set's elements), `driver` (the tables in the kernel), `guard` (the loop). `policy`, `publishing` and `source_nat` are
parts of the rules; `incremental` makes one rule set from the one before. Imports two codecs of `datapath` and
nothing else.
"""
