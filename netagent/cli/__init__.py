"""The command line: asks the agent one thing, shows the answer, and returns the exit status.

Read `main`, `grammar` and `arguments` (what may be typed), `commands`, `render` with `tables` and `screen` (how
answers look). `offline_doctor` is the doctor where no agent answers. Imports the API's client, and the agent only
to start it.
"""
