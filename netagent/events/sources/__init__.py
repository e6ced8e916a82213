"""What other hosts cause, noticed by comparing what is known now with what was known before.

Read `view_changes` (two views of the registry), `view_watch` (the task that compares them), `warning_changes` (the
warnings of `status`).
"""
