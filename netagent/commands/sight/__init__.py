"""Commands that show what happened and who talks to whom."""
