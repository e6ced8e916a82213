"""Who may use the agent from elsewhere, and what hosts know each other by: tokens, and ring keys.

Read `tokens` (commands of tokens), `limits` (holds requests to what their token allows), and `ring_keys`.
Imports what the commands that are limited import.
"""
