"""What the agent serves by HTTP to programs that are no clients of its API: today its health, for load balancers.

Read `health` (what is answered), then `listener`. Imports `registry` and how `control` serves an application.
"""
