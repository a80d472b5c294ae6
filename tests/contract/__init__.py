"""The contract of a store: one suite, run over every store against real servers."""
