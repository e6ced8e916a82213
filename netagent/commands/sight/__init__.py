"""Commands that show what happened, who talks to whom, and what hosts know of the paths between them.

Read `events` and `warning_watch` (what happened), then `paths` (the page's matrix).
"""
