"""How the agent is asked: the HTTP API on its unix socket, its schema, and a client."""
