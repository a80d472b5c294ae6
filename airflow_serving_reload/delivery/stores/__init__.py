"""Where training puts models: one file per transport, each a `Store` over a client that the caller opened."""
