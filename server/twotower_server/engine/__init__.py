"""The use cases: embed, score, recommend. Python and numpy; no transport."""
