"""The manifest: its schema, how one is read, and what of it trains together."""
