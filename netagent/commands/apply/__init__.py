"""The cluster as a file: what operators have made of it, and how it becomes what a file says.

Read `differences` (what is to be done, with `planned_view` and `problem`), then `run` (does it), and `export` (writes
the file's content).
"""
