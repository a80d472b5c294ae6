"""Model servers of every kind: one suite over all of them, and what only some have."""
