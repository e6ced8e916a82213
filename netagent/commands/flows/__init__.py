"""`flows` and what is made of them: who opened connections to whom, on which host, and which links would cover that.

Read `listing` (asks this host and the others, and lists) and `suggest`.
"""
