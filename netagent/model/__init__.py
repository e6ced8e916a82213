"""The vocabulary: records that hosts exchange and requests of users, as values.

Read `ids`, `records`, `request`, `subnet`. Imports nothing else of netagent.
"""
