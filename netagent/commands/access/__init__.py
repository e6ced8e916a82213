"""Who may use the agent from elsewhere: tokens.

Read `tokens` (commands of tokens) and `limits` (holds requests to what their token allows).
Imports what the commands that are limited import.
"""
