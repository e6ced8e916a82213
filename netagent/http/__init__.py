"""What the agent serves by HTTP to programs that are no clients of its API: the listener, and its health for load
balancers. Other folders give their routes to the listener themselves.

Read `health` (what is answered), `health_routes`, then `listener`. Imports `registry` and how `control` serves an
application.
"""
