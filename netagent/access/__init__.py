"""Who may do what by the agent's API.

Read `grant`: what an asker may do, and how a request is held against it. Imports the declarations of commands
(`interface`), nothing that acts.
"""
