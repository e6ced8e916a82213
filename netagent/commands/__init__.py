"""What the agent does for each command: a function per command, which `handlers.answers` ties to its declaration.

Read `handlers` (`netagent.main` collects them), `containers` and `networks`, then `status`, `inspect`, `lookup`,
`ping`, `ring_keys`, `encryption`, `examine` (the doctor) and `explain_facts` (`inspect --why`); `notices` has
warnings. Imports `daemon` and everything below it.
"""
