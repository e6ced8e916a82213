"""Warnings of answers: of `status` and of lists, each with what to do about it. Pure.

Read any: each file makes the notices of one subject, and nothing here asks another host. May import the presenter,
what it presents, and interface.
"""
