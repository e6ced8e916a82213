"""The agent's side of each command: one method per command, and a file for each command that is more than a call.

Read `agent_commands`, then `status`, `inspect`, `lookup`, `ping`, `examine` (the doctor) and `explain_facts`
(`inspect --why`). Imports `daemon` and everything below it.
"""
