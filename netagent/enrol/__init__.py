"""Another host is installed and joined over ssh: `netagent add`.

Read `host_facts` (what a host must be), `package` (the program that runs here, as one file for there), `ssh` (scripts
there), `enrolment` (the order of it all, and the way back).
"""
