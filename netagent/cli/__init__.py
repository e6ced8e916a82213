"""The command line: each command sends one request to the agent, prints the answer, and returns an exit status.

Read `main`, `grammar` (the syntax, from the declarations in netagent.interface), `client_commands`, `render` with
`tables` and `screen` (how answers are printed). `offline_doctor` is the doctor for a host whose agent does not
answer. Imports the API's client, and the daemon only to start it.
"""
