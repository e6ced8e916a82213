"""Our nftables tables, as a pure function of what is known, kept in the kernel whatever others do to it.

inputs.py  what rules are made of          ruleset.py  inputs -> what the sets hold
text.py    the rules themselves            element.py  a set's elements as bytes and as text
policy.py  links: who may ask whom         publishing.py  ports of the host that lead to containers
driver.py  the tables in the kernel        guard.py    the loop: on change, and after tampering
"""
