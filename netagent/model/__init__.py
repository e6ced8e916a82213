"""The vocabulary: records that hosts exchange and requests of users, as values.

Read `ids`, `records`, `request`, `subnet`, and `encryption_switch` (how hosts change over together). Imports
nothing else of netagent.
"""
