"""What users and programs may ask of netagent, as values: the commands, their arguments and their answers.

Read `command` (how a command is declared), `containers` (a group of them) and `schema` (the answers). Command line,
HTTP API, client and documents follow from the declarations. Imports little, because the command line starts with it.
"""
