"""The doctor: compares records, kernel, containers, resolvers and the host, and names causes and fixes.

`facts` gathers without changing anything; `checks` decides and is pure. `explain` serves `inspect --why`: which
record made which objects, and which of these are present.
"""
