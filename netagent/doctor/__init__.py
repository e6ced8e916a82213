"""What is wrong, and why: records, kernel, containers, resolvers and the host compared.

`facts` gathers and changes nothing, `checks` decides and is pure. `explain` says for `inspect --why` which record
made which objects, and which of them are there.
"""
