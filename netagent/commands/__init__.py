"""What each command does in the agent: one method per command, and one file per command that is more than a call.

Read `agent_commands`, then `status`, `inspect`, `lookup`, `ping`, `examine` (the doctor) and `explain_facts`
(`inspect --why`). Imports `daemon` and everything below it.
"""
