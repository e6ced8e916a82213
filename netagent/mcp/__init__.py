"""`netagent mcp`: the agent's answers as tools of a language model (Model Context Protocol), over standard input and
output. A client of the API as the command line is; the agent knows nothing of it.

Read `tools` (which there are, and what they ask), `quoting` (how outside text is marked and bounded), then `server`.
Imports `interface` and the client.
"""
