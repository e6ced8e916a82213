"""`flows` and what is made of them: who opened connections to whom, on which host, and which links would cover that.

Read `listing` (the command's answer).
"""
